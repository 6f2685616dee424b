"""Reduction of the bit depth."""

from typing import Annotated

from annotated_types import Ge
from torch import Generator, Tensor, nn

from casemate.core.registry import Paper, serving
from casemate.core.target import Classifier
from casemate.defences.serving.front import in_front

XU = Paper(
    "Feature squeezing: detecting adversarial examples in deep neural networks",
    "Xu, Evans, Qi",
    2018,
    "https://arxiv.org/abs/1704.01155",
)


class BitDepth(nn.Module):
    """Round each value to one of `levels`, evenly spaced in [0, 1]."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, x: Tensor) -> Tensor:
        """Round x (N, *S)."""
        return (x * (self.levels - 1)).round() / (self.levels - 1)

    def stand_in(self, x: Tensor, /) -> Tensor:
        """Leave x as it is: rounding moves it by half a level at most."""
        return x


@serving(papers=(XU,), known_as=("feature squeezing", "bit-depth reduction", "input quantisation"))
def bit_depth(
    target: Classifier,
    /,
    *,
    levels: Annotated[int, Ge(2)] = 4,
    rng: Generator,
) -> Classifier:
    """Round inputs to a few levels before they reach the model; an exhibit, broken by BPDA.

    Rounding has no gradient, so attacks that follow gradients stand still in front of it. One that
    takes the gradient of the identity instead (`evasion.bpda`) walks through.

    Args:
        target: the classifier to defend.
        levels: number of values that are left between 0 and 1; a bit depth of b leaves 2^b.
        rng: not used; the defence is deterministic.

    Returns:
        The classifier with rounding in front.
    """
    return in_front(BitDepth(levels), target)
