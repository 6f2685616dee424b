"""What is kept of an answered case, and the verdicts drawn from several."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from casemate.assess.case import Case
from casemate.ops.stats import Estimate

SCHEMA: Literal[1] = 1
Status = Literal["done", "failed", "skipped"]
Outcome = Literal["holds", "falls", "inconclusive", "not_tested"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")


class Flag(_Frozen):
    """A reason to distrust a number, by code; the report explains each code."""

    code: str
    detail: str = ""


class Curve(_Frozen):
    """A curve with its 95% band: accuracy over eps, success over rate, an ROC.

    `x_label` and `y_label` name the axes with units; `low` and `high` may be empty.
    """

    x: list[float]
    y: list[float]
    low: list[float] = []
    high: list[float] = []
    x_label: str
    y_label: str
    log: bool = False


class Spent(_Frozen):
    """What an answer cost: passes per attacked row (mean and worst), and seconds of wall clock.

    `of` says whose passes they are: an attack crafted elsewhere asks the target nothing.
    """

    queries_mean: float = 0.0
    queries_max: int = 0
    gradients_mean: float = 0.0
    gradients_max: int = 0
    seconds: float = 0.0
    of: Literal["target", "surrogate"] = "target"


class Provenance(_Frozen):
    """With what an answer was computed."""

    casemate: str
    python: str
    torch: str
    numpy: str
    device: str
    platform: str
    threads: int
    git: str = ""
    time: str = ""


class Result(_Frozen):
    """The answer to one case: numbers beside their baseline and the clean case.

    `metrics`, `baseline` and `clean` map names to estimates; `headline` names the metric that
    decides. `evidence` lists safetensors files beside the result.
    """

    schema_version: Literal[1] = SCHEMA
    key: str
    case: Case
    status: Status
    reason: str = ""
    headline: str = ""
    metrics: dict[str, Estimate] = {}
    baseline: dict[str, Estimate] = {}
    clean: dict[str, Estimate] = {}
    curves: dict[str, Curve] = {}
    outcome: Outcome = "inconclusive"
    flags: tuple[Flag, ...] = ()
    spent: Spent = Spent()
    evidence: tuple[str, ...] = ()
    provenance: Provenance | None = None
    notes: dict[str, Any] = {}


class Requirement(_Frozen):
    """What must hold for a threat: a metric on one side of a value."""

    metric: str
    at_least: float | None = None
    at_most: float | None = None

    def judge(self, measured: Estimate) -> Outcome:
        """Compare the whole interval with the bound: only a clear case holds or falls."""
        if measured.n == 0 or measured.value != measured.value:
            return "inconclusive"
        if self.at_least is not None:
            return _side(measured.low >= self.at_least, measured.high < self.at_least)
        if self.at_most is not None:
            return _side(measured.high <= self.at_most, measured.low > self.at_most)
        return "inconclusive"

    def __str__(self) -> str:
        """Write the requirement as people read it."""
        word, bound = ("at most", self.at_most) if self.at_least is None else ("at least", self.at_least)
        return f"{self.metric.replace('_', ' ')} {word} {100 * (bound or 0):g}%"


def _side(good: bool, bad: bool) -> Outcome:
    return "holds" if good else "falls" if bad else "inconclusive"


class Verdict(_Frozen):
    """The answer for one threat, drawn from the results of several cases.

    `measured` is the worst case per row over `tried` (keys of results that are done), `baseline`
    the random adversary of equal budget, `clean` the same metric without an adversary.
    """

    threat: str
    title: str
    family: str
    question: str = ""
    outcome: Outcome
    why: str
    requirement: str = ""
    metric: str = ""
    measured: Estimate | None = None
    baseline: Estimate | None = None
    clean: Estimate | None = None
    budget: str = ""
    access: str = ""
    tried: tuple[str, ...] = ()
    not_tried: tuple[tuple[str, str], ...] = ()
    flags: tuple[Flag, ...] = ()
    curves: dict[str, Curve] = {}


class Assessment(_Frozen):
    """One assessed target: what was asked, what came out; the file `assessment.json`.

    `command` reproduces it; where answers of earlier commands were kept, it has a line for each.
    `keys` lists the results in the order of the plan. `kind` is "assess" or "harden"; `target` and
    `data` are plain words. `names` are those of the classes, in the order of their numbers, and may be
    empty.
    """

    schema_version: Literal[1] = SCHEMA
    kind: str = "assess"
    title: str = ""
    target: str
    target_digest: str
    data: str
    data_digest: str
    rows: int
    classes: int
    shape: tuple[int, ...]
    names: tuple[str, ...] = ()
    preset: str = ""
    seed: int = 0
    command: str = ""
    started: str = ""
    seconds: float = 0.0
    clean_accuracy: Estimate | None = None
    verdicts: tuple[Verdict, ...] = ()
    keys: tuple[str, ...] = ()
    checks: tuple[Flag, ...] = ()
    price: dict[str, Any] = Field(default_factory=dict)
    options: dict[str, Any] = Field(default_factory=dict)
    provenance: Provenance | None = None
