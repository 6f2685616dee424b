"""How evidence becomes one score, and how often that was right on the zoo of `scripts/scan_zoo.py`."""

from collections.abc import Mapping
from functools import cache
from importlib import resources

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from casemate.core.scanning import SCALE

FIRM = 0.3  # spread of the classes' evidence from which on differences say less
CEILING = 6.0  # evidence beyond this counts no more: it is as clear as can be
EVENNESS = (
    "scanning.neural_cleanse",
    "scanning.least_perturbation",
)  # what tells how much classes differ anyway
UNEVEN = 0.4  # deviation of the classes' evidence, a factor of 1.5 in size, from which on no answer is given


class Rate(BaseModel):
    """A share of models with its exact 95% interval."""

    model_config = ConfigDict(frozen=True)

    value: float
    low: float
    high: float
    n: int


class Calibration(BaseModel):
    """Weights of the detectors' evidence, the thresholds of the score, and what was measured with them.

    A score counts deviations above the mean of clean models. Above `threshold` a model is called backdoored,
    and from `weak_from` to there its signs are weak, which is no answer; `weak` is how often that was so.

    `false_alarms` is the share of clean models of the zoo that are called backdoored, `found` the share of
    backdoored ones that are, by kind of trigger; both by weights and thresholds fitted to other models.
    `unseen` is the same for kinds of trigger of which none was fitted to; `false_alarms_other_data` and
    `other_data` are the shares among models of data sets of which none was fitted to, as a user's are.
    `unanswered` is the share of models, by data set, that got no answer because their classes differ too
    much (see `unevenness`); all other numbers are without them.
    """

    model_config = ConfigDict(frozen=True)

    made: str
    weights: dict[str, float]
    bias: float
    threshold: float
    weak_from: float
    auc: Rate
    auc_unseen: Rate
    false_alarms: Rate
    found: dict[str, Rate]
    unseen: dict[str, Rate]
    false_alarms_other_data: Rate
    other_data: Rate
    unanswered: dict[str, Rate]
    weak: dict[str, Rate]

    def scores(self, evidence: Mapping[str, Tensor], usual: Mapping[str, Tensor]) -> Tensor:
        """Combine evidence (K,) by detector, beyond what is usual, to scores of classes (K,)."""
        parts = [
            weight * beyond(evidence[name], usual.get(name))
            for name, weight in self.weights.items()
            if name in evidence
        ]
        return self.bias + torch.stack(parts).sum(0)

    def shares(self, evidence: Mapping[str, Tensor], usual: Mapping[str, Tensor], c: int) -> dict[str, float]:
        """Say how much each detector adds to the score of class c."""
        return {
            name: weight * float(beyond(evidence[name], usual.get(name))[c])
            for name, weight in self.weights.items()
            if name in evidence
        }


def beyond(evidence: Tensor, usual: Tensor | None) -> Tensor:
    """Take from evidence (K,) what references show of the same class, and bound the rest.

    A class that is harder to call up than others, here or in references, is no less suspicious than a
    usual one. Where classes differ much anyway, a difference says less.
    """
    evidence = evidence.double()
    known = torch.zeros(()) if usual is None else usual.clamp(min=0)
    spread = SCALE * torch.quantile((evidence - torch.quantile(evidence, 0.5)).abs(), 0.5)
    return (evidence - known).clamp(0, CEILING) / (1 + (spread / FIRM).square()).sqrt()


def unevenness(evidence: Mapping[str, Tensor]) -> float:
    """Measure how much the classes' triggers differ in size anyway: the deviation of their logarithms.

    The most suspicious class, which may be backdoored, is left out.

    Args:
        evidence: evidence (K,) by detector; K is 3 or more.

    Returns:
        The deviation, averaged over the detectors that measure sizes; 0 where there is none of them.
    """
    parts = [evidence[name].double().sort().values[:-1].std() for name in EVENNESS if name in evidence]
    return float(torch.stack(parts).mean()) if parts else 0.0


@cache
def shipped() -> Calibration:
    """Read the calibration that comes with this version."""
    text = resources.files("casemate.assess").joinpath("calibration.json").read_text(encoding="utf-8")
    return Calibration.model_validate_json(text)
