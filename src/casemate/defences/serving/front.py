"""A step in front of a target."""

from dataclasses import replace

from torch import Tensor, nn

from casemate.core.adaptive import Behind
from casemate.core.target import Classifier


class Front(nn.Module):
    """A step `before` a target: x in [0, 1] -> logits; attacks go round it under the path "before"."""

    def __init__(self, before: nn.Module, target: Classifier) -> None:
        super().__init__()
        self.before = before
        self.net = Behind(target)

    def forward(self, x: Tensor) -> Tensor:
        """Classify before(x)."""
        out: Tensor = self.net(self.before(x))
        return out


def in_front(before: nn.Module, target: Classifier) -> Classifier:
    """Put a step in front of a target; the target and its net stay as they are."""
    outputs = "labels" if target.outputs == "labels" else "logits"
    return replace(target, net=Front(before, target), bounds=(0.0, 1.0), mean=(), std=(), outputs=outputs)
