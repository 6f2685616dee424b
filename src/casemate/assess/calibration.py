"""How evidence becomes one score, and how often that was right on the zoo of `scripts/scan_zoo.py`."""

import json
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

CEILING = 4.0  # evidence beyond this counts no more: it is as clear as can be


class Rate(BaseModel):
    """A share of models with its exact 95% interval."""

    model_config = ConfigDict(frozen=True)

    value: float
    low: float
    high: float
    n: int


class Calibration(BaseModel):
    """Weights of the detectors' evidence, the threshold of the score, and what was measured with them.

    `false_alarms` is the share of clean models of the zoo that are called backdoored, `found` the share of
    backdoored ones that are, by kind of trigger; both by weights and thresholds fitted to other models.
    `unseen` is the same for kinds of trigger of which none was fitted to.
    """

    model_config = ConfigDict(frozen=True)

    made: str
    weights: dict[str, float]
    reference: dict[str, float]
    bias: float
    threshold: float
    auc: Rate
    auc_unseen: Rate
    false_alarms: Rate
    found: dict[str, Rate]
    unseen: dict[str, Rate]

    def scores(self, evidence: Mapping[str, Tensor], usual: Mapping[str, Tensor]) -> Tensor:
        """Combine evidence (K,) by detector, given what references show, to log-odds of classes (K,)."""
        total = torch.full_like(next(iter(evidence.values())), self.bias)
        for parts, weights in ((evidence, self.weights), (usual, self.reference)):
            for name, weight in weights.items():
                if name in parts:
                    total = total + weight * features(parts[name])
        return total

    def shares(self, evidence: Mapping[str, Tensor], usual: Mapping[str, Tensor], c: int) -> dict[str, float]:
        """Say how much each detector adds to the score of class c."""
        return {
            name: weight * float(features(evidence[name])[c])
            + self.reference.get(name, 0.0) * (float(features(usual[name])[c]) if name in usual else 0.0)
            for name, weight in self.weights.items()
            if name in evidence
        }


def features(evidence: Tensor) -> Tensor:
    """Bound evidence: a class that is harder to call up than usual is no less suspicious than others."""
    return evidence.clamp(-1.0, CEILING)


@cache
def _shipped() -> tuple[Calibration, ...]:
    text = resources.files("casemate.assess").joinpath("calibration.json").read_text(encoding="utf-8")
    said: list[dict[str, Any]] = json.loads(text)
    return tuple(Calibration.model_validate(each) for each in said)


def shipped(detectors: Iterable[str]) -> Calibration:
    """Choose the calibration that comes with this version for what could be asked about a model.

    The last one asks for trigger inversion alone, which any net with gradients allows.
    """
    known = set(detectors)
    return next((c for c in _shipped() if set(c.weights) <= known), _shipped()[-1])
