"""What is said of a scanned model: the answer, what it means, what to do, and how often it is wrong."""

from typing import Any

from casemate.assess.scan import Scanned
from casemate.ops.stats import Estimate
from casemate.report.words import interval, number

TITLES = {
    "scanning.neural_cleanse": "smallest patch",
    "scanning.least_perturbation": "least change",
    "scanning.warp_inversion": "least warp",
    "scanning.artificial_brain_stimulation": "neurons",
    "weights.signature": "weights of the class",
    "weights.lipschitz": "weights of channels",
}
MOST = 0.5  # share of the clean pictures from which on a trigger is said to steer them


def steering(found: Scanned) -> list[str]:
    """Name the detectors whose trigger for the suspect steers most clean pictures of other classes."""
    return [
        TITLES[name]
        for name, traces in found.found.traces.items()
        if float(traces.success[found.suspect]) > MOST
    ]


def answer(found: Scanned) -> str:
    """Say the outcome in a sentence."""
    suspect = named(found, found.suspect)
    score = f"score {found.score:.2f}, threshold {found.calibration.threshold:.2f}"
    match found.outcome:
        case "backdoored" if steering(found):
            return f"{found.name} is backdoored, it seems: a trigger calls up {suspect} ({score})."
        case "backdoored":
            return f"{found.name} is backdoored, it seems: {suspect} stands out as a trigger's class does ({score})."
        case "no sign":
            return f"{found.name} shows no sign of a backdoor; most suspicious is {suspect} ({score})."
        case "inconclusive":
            return f"Inconclusive: {found.why}. Most suspicious is {suspect} ({score})."


def meaning(found: Scanned, *, repaired: bool) -> str:
    """Say what the outcome means; of models as they came with the rate at which such an answer is wrong."""
    if repaired:
        return _meaning_of_repaired(found)
    how = found.calibration
    alarms = _share(how.false_alarms_other_data)
    match found.outcome:
        case "backdoored":
            return f"{_steered(found)} Of clean models on data that were not fitted to, {alarms} are called so too."
        case "no sign":
            return (
                "No class can be called up far more easily than the others. That is no proof: of backdoored models on "
                f"data that were not fitted to, {_share(how.other_data)} are found, and of kinds of trigger that were "
                "not tried nothing is known."
            )
        case "inconclusive":
            return "The model is neither cleared nor accused: these pictures do not settle it."


def _meaning_of_repaired(found: Scanned) -> str:
    match found.outcome:
        case "backdoored":
            return f"The repair did not end it. {_steered(found)}"
        case "no sign":
            return (
                "After the repair no class can be called up far more easily than the others. That is no proof: how "
                "often this is wrong was not measured on mended models, and the trigger that was planted may be "
                "another one than those that were recovered."
            )
        case "inconclusive":
            return "The repaired model is neither cleared nor accused: these pictures do not settle it."


def _steered(found: Scanned) -> str:
    """Say what the recovered triggers do, of those that do much."""
    suspect, names = named(found, found.suspect), steering(found)
    if not names:
        return (
            f"{suspect[0].upper()}{suspect[1:]} stands out as the class of a trigger does, but no trigger that was "
            "recovered steers most pictures to it: what calls it up is not known."
        )
    return (
        f"Pictures that carry a trigger, such as that of {' or '.join(names)} below, are likely to be given {suspect} "
        "whatever they show."
    )


def action(found: Scanned, *, repaired: bool) -> str:
    """Say what to do next."""
    if repaired:
        return _action_on_repaired(found)
    match found.outcome:
        case "backdoored":
            look = "Look at what steers below, then run" if steering(found) else "Run"
            return (
                f"Do not use the model as it is. {look} casemate harden on this folder, which tries repairs and scans "
                "again, or train anew on rows that casemate screen has looked at."
            )
        case "no sign":
            return (
                "Use it as far as you trust where it comes from. Whoever has the training rows should run casemate "
                "screen on them as well."
            )
        case "inconclusive":
            return (
                "See to the reason above (more clean pictures, the right normalisation and labels) and scan again. "
                "Where that cannot help, judge the triggers below by eye, and trust the model no more than its source."
            )


def _action_on_repaired(found: Scanned) -> str:
    match found.outcome:
        case "backdoored":
            return "Do not use the repaired model: something is left. Train anew on data that you trust."
        case "no sign":
            return (
                "See below what the repair left of the triggers and what it cost in accuracy. Where much depends on "
                "the model, train anew on data that you trust; else trust the repaired model no more than its source."
            )
        case "inconclusive":
            return (
                "See below what the repair left of the triggers and what it cost in accuracy. Scan the model as it "
                "came and repair it again with more clean pictures, or train anew on data that you trust."
            )


def rates(found: Scanned) -> str:
    """Say how often such an answer is wrong, as measured."""
    how = found.calibration
    kinds = ", ".join(f"{kind.replace('_', ' ')} {_share(rate)}" for kind, rate in how.found.items())
    return (
        f"Measured on small models trained by us. On data sets that it was not fitted to, "
        f"{_share(how.false_alarms_other_data)} of the clean models are called backdoored "
        f"(n = {how.false_alarms_other_data.n}) and {_share(how.other_data)} of the backdoored ones are found "
        f"(n = {how.other_data.n}); on those it was fitted to (digits, clothes, a few coloured shapes), "
        f"{_share(how.false_alarms)} and, by kind of trigger: {kinds}. "
        f"With no trigger of a kind among the fitted ones, {_share(how.unseen['all'])} of them are found."
    )


def _share(rate: Any) -> str:
    estimate = Estimate(rate.value, rate.low, rate.high, rate.n)
    return f"{number(rate.value, 'share')} ({interval(estimate, 'share')})"


def named(found: Scanned, c: int) -> str:
    """Name a class."""
    names = found.clean.names
    return f"class {c} ({names[c]})" if c < len(names) else f"class {c}"
