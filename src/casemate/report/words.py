"""Numbers, budgets and outcomes as people read them."""

import math
import re
from dataclasses import dataclass
from typing import Literal

from casemate.assess.case import Case
from casemate.assess.result import Outcome
from casemate.core.budget import Budget
from casemate.core.threat import Lp, format_eps
from casemate.ops.stats import Estimate

Unit = Literal["share", "points", "plain"]


@dataclass(frozen=True)
class Metric:
    """How a metric is called, what it says of a target, and in which unit it is written.

    `says` completes a sentence after the number; `safer` is the side on which the target is safer.
    """

    title: str
    says: str
    unit: Unit = "share"
    safer: Literal["high", "low"] = "low"


METRICS = {
    "accuracy": Metric("Accuracy", "of the inputs are classified correctly", safer="high"),
    "robust_accuracy": Metric(
        "Accuracy under attack", "of the inputs are still classified correctly under attack", safer="high"
    ),
    "robust_accuracy_8bit": Metric(
        "Accuracy under attack, 8-bit inputs",
        "of the inputs are still classified correctly once the attack is rounded to 8 bits",
        safer="high",
    ),
    "robust_accuracy_every_answer": Metric(
        "Accuracy under attack, right in every answer",
        "of the inputs are classified correctly under attack in each of several random answers",
        safer="high",
    ),
    "evasion_rate": Metric("Malware that passes", "of the malware passes at the alarm's threshold"),
    "valid_share": Metric("Working programs", "of the returned programs keep every rule", safer="high"),
    "median_changes": Metric(
        "Median number of changes", "is the median number of changes that hide", "plain", "high"
    ),
    "false_positive_rate": Metric("False alarms", "of fresh benign programs raise the alarm"),
    "success_rate": Metric("Inputs fooled", "of the correctly classified inputs are fooled"),
    "digital_success_rate": Metric(
        "Files that fool", "of the correctly classified inputs are fooled by the file, before it is printed"
    ),
    "destruction_rate": Metric(
        "Destruction rate", "of what the files achieve is undone by printing and photographing", safer="high"
    ),
    "success_undone": Metric(
        "Success that the camera undoes",
        "of the correctly classified inputs are fooled by the file and not by its photograph",
        safer="high",
    ),
    "misread_rate": Metric(
        "Misread, whatever they show",
        "of the inputs are misread, those that lost their meaning counted as well",
    ),
    "legitimacy": Metric(
        "Meaning kept",
        "of the misread inputs still show what they should, by independent judges",
        "share",
        "high",
    ),
    "accuracy_made_again": Metric(
        "Accuracy on inputs made again",
        "of the inputs are right as they are and once the generator made them again",
        safer="high",
    ),
    "median_latent_distance": Metric(
        "Median distance of codes", "is the median distance of the codes of misread inputs", "plain", "high"
    ),
    "fooling_rate": Metric("Answers changed", "of the answers differ from those without the change"),
    "true_class_second_rate": Metric(
        "True class kept second", "of the inputs get the wanted class first and their true one second"
    ),
    "success_rate_real_content": Metric(
        "Inputs fooled by a real picture", "of the inputs are fooled by a real picture in the patch's place"
    ),
    "median_norm": Metric("Median size of the change", "is the median change that fools", "plain", "high"),
    "accuracy_drop": Metric("Accuracy lost", "of accuracy are lost to the poison", "points"),
    "attack_success": Metric(
        "Inputs given the class wished for", "of the inputs concerned get the adversary's class"
    ),
    "tpr_at_1pct_fpr": Metric(
        "Training rows recognised, at 1% false alarms",
        "of the training rows are recognised at a false-alarm rate of 1%",
    ),
    "tpr_at_01pct_fpr": Metric(
        "Training rows recognised, at 0.1% false alarms",
        "of the training rows are recognised at a false-alarm rate of 0.1%",
    ),
    "auc": Metric("AUC", "is the area under the attacker's ROC curve", "plain"),
}

OUTCOMES: dict[Outcome, tuple[str, str]] = {
    "falls": ("falls", "✗"),
    "inconclusive": ("inconclusive", "?"),
    "not_tested": ("not tested", "○"),
    "holds": ("holds", "✓"),
}

NORMS = {"linf": "L∞", "l2": "L2", "l1": "L1", "l0": "L0"}

ACCESS = {
    "LabelOracle": "sees only the model's decisions (black box)",
    "ScoreOracle": "sees the model's scores for any input (black box)",
    "GradientOracle": "knows the model, its weights and its gradients (white box)",
    "Samples": "supplies part of the training data",
    "Workshop": "supplies part of the training data, and knows how the model is trained",
}
OWN_MODELS = "never asks the model; trains models of its own on the training data"


def metric(name: str) -> Metric:
    """Describe a metric; one without an entry keeps its name, and is a share if it sounds like one."""
    if name in METRICS:
        return METRICS[name]
    title = name.replace("_", " ").capitalize()
    share = re.search(r"(accuracy|rate|share|success|tpr|fpr|recall|precision)", name) is not None
    safer: Literal["high", "low"] = "high" if "accuracy" in name else "low"
    return Metric(title, f"is the {title.lower()}", "share" if share else "plain", safer)


def number(value: float, unit: Unit = "share") -> str:
    """Write one number: 0.125 as 12.5%, 12.5 points or 0.125."""
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    match unit:
        case "share":
            return f"{100 * value:.1f}%"
        case "points":
            return f"{100 * value:.1f} points"
        case _:
            return f"{value:.3g}"


def interval(estimate: Estimate, unit: Unit = "share") -> str:
    """Write a 95% interval; says so where one run gives none."""
    if estimate.n == 0:
        return "no rows"
    if not (math.isfinite(estimate.low) and math.isfinite(estimate.high)):
        return "no interval from one run"
    low = number(estimate.low, unit).removesuffix(" points")
    return f"{low} to {number(estimate.high, unit)}"


def short(value: float, unit: Unit = "share") -> str:
    """Write a number for a sentence: as in tables, without a zero behind the point."""
    return number(value, unit).replace(".0%", "%").replace(".0 points", " points")


def plain(text: str) -> str:
    """Replace names of metrics inside a sentence by words."""
    text = text.replace("tpr_at_1pct_fpr", "the rate at 1% false alarms")
    text = text.replace("tpr_at_01pct_fpr", "the rate at 0.1% false alarms")
    return text.replace("tpr at 1pct fpr", "the rate at 1% false alarms")


def duration(seconds: float) -> str:
    """Write a time: 4.2 s, 3 min 05 s, 2 h 10 min."""
    if not math.isfinite(seconds):
        return "unknown"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def budget(case: Case) -> str:
    """Write what the adversary of a case may spend."""
    if case.budget is not None:
        return spending(case.budget)
    if case.rate is not None:
        return f"may change {100 * case.rate:g}% of the training rows"
    return ""


def spending(budget: Budget) -> str:
    """Write a budget of any kind."""
    return ball(budget) if isinstance(budget, Lp) else str(budget)


def ball(lp: Lp) -> str:
    """Write a ball around each input, and the query limit."""
    name = NORMS[lp.norm]
    if math.isinf(lp.eps):
        size = f"any distance, measured in {name}; the nearest is sought"
    elif lp.norm == "l0":
        size = f"{name} distance at most {lp.eps:g}: that many changed positions"
    else:
        size = f"{name} distance at most {format_eps(lp.eps)}, for values in 0 to 1"
    return size + (f"; at most {lp.queries:,} queries per row" if lp.queries else "")


def setting(value: object, name: str = "") -> str:
    """Write the value of a parameter; a radius as people read it."""
    match value:
        case None:
            return "automatic"
        case bool():
            return "yes" if value else "no"
        case float():
            return format_eps(value) if name == "eps" else f"{value:.6g}"
        case _:
            return str(value)


def prose(text: str | None) -> str:
    """Write a piece of a docstring for readers of a report: no marks of code, None as it is shown."""
    return (text or "").replace("`", "").replace("None means", "automatic means")


def plural(count: int, noun: str) -> str:
    """Write a count with its noun: 1 threat, 2 threats."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
