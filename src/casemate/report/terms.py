"""Words of the field for readers outside it."""

from typing import NamedTuple


class Term(NamedTuple):
    """A word, what it means, and the families whose report needs it; empty for all."""

    word: str
    meaning: str
    families: tuple[str, ...] = ()


POISONS = ("poisoning", "targeted", "backdoor")

TERMS = (
    Term("Holds", "The whole 95% interval lies on the required side, and no check failed."),
    Term("Falls", "The whole 95% interval lies on the wrong side of what is required."),
    Term(
        "Inconclusive",
        "The interval contains the bound, or a check failed: the tests do not settle the question.",
    ),
    Term("Not tested", "Nothing was tried. That is no sign of safety."),
    Term(
        "95% interval, n",
        "The number was measured on n rows or, where accuracy is lost to poison, on n trained models. "
        "With others it would have come out differently; "
        "intervals made this way contain the true value in 95 of 100 cases.",
    ),
    Term(
        "Random baseline",
        "What an adversary achieves who spends the same budget at random. "
        "An attack that does no better than this has shown nothing. "
        "For a trigger it is what the trigger does to models that were never poisoned, for wrong labels what it "
        "costs to train without those rows, and for touched-up rows what changes of their size at random do.",
    ),
    Term("Clean", "The same model without any adversary."),
    Term("Requirement", "What must hold for the model to pass. Whoever orders the assessment sets it."),
    Term(
        "Worst case per row",
        "A row counts as safe only if every attack that was tried failed on it.",
        ("evasion",),
    ),
    Term(
        "Adversarial example",
        "An input changed so little that people read it as before, and so cleverly that the model does not.",
        ("evasion",),
    ),
    Term(
        "eps, the size of a change",
        "How far an input may be moved. L∞: no value changes by more than eps (8/255 is 8 steps of brightness "
        "out of 255). L2: the straight-line distance. L1: the sum of all changes. L0: how many positions change.",
        ("evasion",),
    ),
    Term(
        "Destruction rate",
        "The share of pictures that fool as files, but no longer once they were printed and photographed.",
        ("physical",),
    ),
    Term(
        "Legitimacy",
        "A changed input counts only if it still shows the same thing: by construction, or because most of "
        "several independent nets, which the adversary does not know, read it so.",
        ("semantic",),
    ),
    Term("White box, black box", "Whether the adversary knows the model's weights, or can only ask it."),
    Term(
        "Universal change",
        "One change, or one network that makes it, learnt on other inputs once and then used on any without "
        "a look at the model.",
        ("universal",),
    ),
    Term("Query", "One question to the model. Attacks that need many are easier to notice.", ("evasion",)),
    Term("Poisoning", "Changing part of the training data so that the trained model is worse.", POISONS),
    Term(
        "Backdoor, trigger",
        "Poison that makes the model obey a secret mark (the trigger) and behave normally without it.",
        POISONS,
    ),
    Term(
        "Membership inference",
        "Finding out whether a given record was used for training. Where the data is about people, that can be "
        "a breach of confidence by itself.",
        ("membership",),
    ),
    Term(
        "False-alarm rate, ROC",
        "An attacker who names more members also names more rows that were none. The ROC curve shows both: hits "
        "(up) over false alarms (right). What matters is how many are found with hardly any false alarm, at the "
        "left edge; the dashed diagonal is guessing.",
        ("membership",),
    ),
    Term("AUC", "The area under the ROC curve: 0.5 is guessing, 1 is certainty.", ("membership",)),
    Term("Seed", "The start of all random numbers. The same seed gives the same answers."),
    Term("Digest", "A fingerprint of a file or a set of numbers. Equal fingerprints mean equal contents."),
)


def terms(families: set[str]) -> list[Term]:
    """Choose the words that a report on these families uses."""
    return [term for term in TERMS if not term.families or families & set(term.families)]
