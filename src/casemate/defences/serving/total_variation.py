"""Total variation minimisation."""

from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Generator, Tensor, nn

from casemate.core.errors import NotApplicable
from casemate.core.registry import Paper, serving
from casemate.core.target import Classifier
from casemate.defences.serving.front import in_front

GUO = Paper(
    "Countering adversarial images using input transformations",
    "Guo, Rana, Cisse, van der Maaten",
    2018,
    "https://arxiv.org/abs/1711.00117",
)
STEP = 0.35  # of both ascent and descent: their product must stay below 1 / ||gradient||^2 = 1/8


class TotalVariation(nn.Module):
    """Redraw pictures from a random part of their pixels, as smooth pieces with sharp edges."""

    def __init__(self, kept: float, weight: float, steps: int) -> None:
        super().__init__()
        self.kept, self.weight, self.steps = kept, weight, steps

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Minimise |mask (z - x)|^2 / 2 + weight * TV(z) over z, for a random mask per picture.

        Solved by the primal-dual steps of Chambolle & Pock; the paper's error is not squared and its
        solver is split Bregman, which differ in the weight and the number of steps only.
        """
        mask = (torch.rand_like(x[:, :1]) < self.kept).to(x)
        z = mask * x + (1 - mask) * (mask * x).sum((2, 3), True) / mask.sum((2, 3), True).clamp(min=1)
        ahead, down, right = z, torch.zeros_like(z), torch.zeros_like(z)
        for _ in range(self.steps):
            down = down + STEP * nn.functional.pad(ahead.diff(dim=2), (0, 0, 0, 1))
            right = right + STEP * nn.functional.pad(ahead.diff(dim=3), (0, 1))
            length = ((down.square() + right.square()).sqrt() / self.weight).clamp(min=1)
            down, right = down / length, right / length
            pull = down - down.roll(1, 2) + right - right.roll(1, 3)
            new = (z + STEP * (pull + mask * x)) / (1 + STEP * mask)
            ahead, z = 2 * new - z, new
        return z.clamp(0, 1)

    def stand_in(self, x: Tensor, /) -> Tensor:
        """Leave x as it is, as Athalye et al. do."""
        return x


@serving(papers=(GUO,), known_as=("TV minimisation", "total variance minimization"))
def total_variation(
    target: Classifier,
    /,
    *,
    kept: Annotated[float, Gt(0), Le(1)] = 0.7,
    weight: Annotated[float, Gt(0)] = 0.03,
    steps: Annotated[int, Ge(1)] = 50,
    rng: Generator,
) -> Classifier:
    """Redraw pictures from a random part of their pixels; an exhibit, broken by BPDA with EOT.

    The solver lets no gradient through, and the pixels are drawn anew for each answer. The gradient of
    the identity, averaged over draws, is all that an attack needs.

    Args:
        target: the classifier of pictures to defend.
        kept: share of the pixels that are looked at, in (0, 1].
        weight: weight of the total variation, in units of `x`; more is smoother.
        steps: steps of the solver.
        rng: not used; pixels are drawn when the defence answers.

    Returns:
        The classifier with redrawing in front.

    Raises:
        NotApplicable: the target does not take pictures.
    """
    if len(target.shape) != 3:
        raise NotApplicable(f"Total variation needs pictures. Got shape {target.shape}.")
    return in_front(TotalVariation(kept, weight, steps), target)
