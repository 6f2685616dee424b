"""Reasons to distrust a number, in plain words, and what to do about each."""

from typing import NamedTuple

from casemate.report import words


class Explanation(NamedTuple):
    """What a flag is called, what it means for the number, and what to do."""

    title: str
    meaning: str
    action: str


FLAGS = {
    "no-threshold": Explanation(
        "The alarm has no threshold for 1% false alarms",
        "Too few benign programs, or no scores: the model's own decision counts, whatever its false alarms.",
        "Hand over more benign test rows, and a model that gives scores.",
    ),
    "zero-gradient": Explanation(
        "Gradients are exactly zero",
        "For some inputs the model gives a gradient of zero, so attacks that follow gradients stand still. "
        "That looks like robustness and is none.",
        "Let gradients go round the step that stops them: set bpda to its layer in the plan, or --bpda.",
    ),
    "saturated-gradient": Explanation(
        "Gradients vanish because the model is too sure",
        "The model's scores are so far apart that the loss is flat to the computer's precision.",
        "Run attacks with a margin loss, which does not flatten.",
    ),
    "probabilities": Explanation(
        "The model returns probabilities",
        "Scores were turned back by a logarithm. Probabilities rounded to 0 or 1 have lost what attacks need.",
        "Hand over the model without its last softmax.",
    ),
    "randomised": Explanation(
        "The model answers at random",
        "Two passes over the same inputs disagree. An attack judged by a single answer is judged by luck.",
        "Attack with gradients averaged over draws: set eot = 20 in the plan, or --eot 20.",
    ),
    "batch-norm-train-mode": Explanation(
        "The model came in training mode",
        "In training mode an answer depends on the other inputs in the batch. A copy in evaluation mode was tested.",
        "Call eval() on the model before it is used or handed over.",
    ),
    "black-box-beats-white-box": Explanation(
        "An attacker who knows less does better",
        "Attacks without gradients fooled rows that attacks with gradients could not. Gradients mislead: "
        "the model hides them rather than resists.",
        "Find the layer that misleads and let gradients go round it: set bpda in the plan, or --bpda.",
    ),
    "transfer-beats-white-box": Explanation(
        "Examples made elsewhere do better",
        "Examples made on other models fooled rows that attacks with the model's own gradients, in the same ball, "
        "could not. Gradients mislead: the model hides them rather than resists.",
        "Find the layer that misleads and let gradients go round it: set bpda in the plan, or --bpda.",
    ),
    "more-steps-hurt": Explanation(
        "More steps do worse",
        "An attack with more steps fooled fewer inputs than with fewer steps, which a sound attack does not do.",
        "Let gradients go round the layer that hides them (bpda in the plan), or average random ones (eot).",
    ),
    "one-step-beats-many": Explanation(
        "One step does better than many",
        "A single step along the gradient fooled more inputs than twenty did. A sound iterative attack finds what "
        "one step finds, so the gradient misleads.",
        "Let gradients go round the layer that hides them (bpda in the plan), or average random ones (eot).",
    ),
    "random-search-finds-more": Explanation(
        "Random search finds what gradients miss",
        "A few hundred random changes fooled inputs that steps along the gradient could not. The gradient is "
        "hidden rather than absent.",
        "Let gradients go round the layer that hides them: set bpda to its layer in the plan, or --bpda.",
    ),
    "misleading-gradient": Explanation(
        "Gradients do not tell what a small change does",
        "A short step along the gradient changes the scores quite otherwise than the gradient says: a layer is "
        "random, jagged, or has a gradient that is not its own.",
        "Give that layer a smooth stand-in (bpda in the plan), and average random ones (eot).",
    ),
    "gradient-blocked": Explanation(
        "Attacks go round a layer",
        "The layer lets no gradient through, or declares a stand-in. Attacks compute it as it is and take the "
        "gradient of the stand-in or, without one, of the identity (BPDA).",
        "If that layer rescales or distorts, give it a method stand_in that does the same smoothly.",
    ),
    "random-layer": Explanation(
        "Attacks average over random draws",
        "The layer draws random numbers for every answer. Each gradient is the mean over several draws (EOT), and "
        "several answers judge each input: it counts as fooled if most are wrong.",
        "Nothing, unless one answer should never be wrong: then read the number for every answer.",
    ),
    "large-eps-fails": Explanation(
        "Even a huge change does not fool",
        "With a budget that permits any picture whatever, the attack still fails. So the attack is broken here, "
        "not the model strong.",
        "Do not read other failures of this attack as robustness.",
    ),
    "baseline-beats-attack": Explanation(
        "Random noise does as well as the attack",
        "Noise of the same size fools as many inputs as the attack does, or more. It has shown nothing about this model.",
        "Do not use this attack's number; check its parameters.",
    ),
    "budget-exceeded": Explanation(
        "The attack left its budget",
        "Some candidates were larger than allowed or left the valid range. They were not counted as successes.",
        "Report it as a fault of the attack.",
    ),
    "nan-output": Explanation(
        "Values that are not numbers",
        "The model or the attack produced values that are not numbers. They were not counted as successes.",
        "Find the operation that overflows, often a division or a logarithm of zero.",
    ),
    "few-rows": Explanation(
        "Few rows",
        "So few rows were tested that the interval is wide.",
        "Test more rows.",
    ),
    "few-victims": Explanation(
        "Few victims",
        "Training differs from run to run, and fewer than three models were trained: the interval says little "
        "about that difference.",
        "Repeat with three models or more.",
    ),
    "broken-victims": Explanation(
        "Poisoned models are broken",
        "The poisoned models have lost so much accuracy that a trigger that seems to work may be a model which "
        "gives one class to every input.",
        "Look at their accuracy beside the success, and train longer or poison less.",
    ),
    "eight-bit-gap": Explanation(
        "Rounding undoes part of the attack",
        "When the adversarial inputs are stored with 8 bits per value, as picture files are, fewer of them fool.",
        "If real inputs arrive as 8-bit files, read the 8-bit number.",
    ),
    "blind-baseline": Explanation(
        "Members can be told apart without the model",
        "An attacker who never asks the model separates training rows from others. The two sets differ in "
        "themselves, so success says nothing about the model.",
        "Draw members and non-members from the same source, at random.",
    ),
    "low-fpr-not-measurable": Explanation(
        "So low a false-alarm rate cannot be measured",
        "There are too few non-members to see a false-alarm rate this low: one row decides.",
        "Use more rows, or read the number at 1%.",
    ),
    "shadow-size-differs": Explanation(
        "The attacker's models had fewer training rows",
        "Shadow models were trained on another number of rows than the target, so they overfit differently.",
        "Give the attacker more data of the same kind.",
    ),
    "after-others": Explanation(
        "Attacked only what earlier attacks left",
        "This attack got only the rows that earlier attacks had not fooled. Its own number holds for the "
        "sequence, not for this attack alone.",
        "Compare single attacks only in a plan without a chain.",
    ),
    "more-classes": Explanation(
        "The model knows more classes than the data",
        "The model has more outputs than the data has labels. Label i was taken to mean output i; where that is "
        "wrong, every number here is wrong.",
        "Check that accuracy without an adversary is what you expect.",
    ),
    "no-recipe": Explanation(
        "The model cannot be trained anew",
        "Poisoning and some leaks can only be judged by training models like the target. How that is done is "
        "not known, so those threats were not tested, or with a stand-in.",
        "Hand over a function that makes an untrained model, and the training recipe.",
    ),
    "queries-only": Explanation(
        "The target gives answers only",
        "Attacks that need gradients could not be run. An adversary who has the model itself can do more "
        "than what was tried here.",
        "Assess the model from its weights as well, if you have them.",
    ),
    "channels-moved": Explanation(
        "Axes were moved",
        "Images came with their channels last, and were turned so that channels come first, as PyTorch has them.",
        "Look at the examples: they must look like your data.",
    ),
    "channel-added": Explanation(
        "A channel was added",
        "Inputs with two axes are taken for grey images with one channel.",
        "If they are no images, hand them over as casemate.Samples, which are taken as they are.",
    ),
    "binary-inputs": Explanation(
        "Inputs are 0 and 1",
        "Whole numbers 0 and 1 were taken as they are, and not as brightness out of 255. "
        "Attacks may move them to values in between, which real inputs never have.",
        "Read the numbers as a bound on what an adversary can do.",
    ),
    "surrogate-recipe": Explanation(
        "Trained by a stand-in recipe",
        "How the target was trained is not known. Models were trained by a usual recipe for such data instead.",
        "Hand over the training recipe.",
    ),
}


def reason(text: str) -> str:
    """Write the reason of a verdict with names of checks and metrics in words."""
    head, mark, codes = text.partition("a check failed: ")
    if mark:
        text = head + mark + ", ".join(explain(code).title.lower() for code in codes.split(", "))
    return words.plain(text)


def explain(code: str) -> Explanation:
    """Explain a flag; one without an entry is still printed under its code."""
    return FLAGS.get(code) or Explanation(
        code.replace("-", " ").capitalize(),
        "This version of the report has no explanation for this flag.",
        "",
    )
