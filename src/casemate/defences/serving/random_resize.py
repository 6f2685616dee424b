"""Random resizing and padding."""

from typing import Annotated

import torch
from annotated_types import Gt, Le
from torch import Generator, Tensor, nn

from casemate.core.errors import NotApplicable
from casemate.core.registry import Paper, serving
from casemate.core.target import Classifier
from casemate.defences.serving.front import in_front

XIE = Paper(
    "Mitigating adversarial effects through randomization",
    "Xie, Wang, Zhang, Ren, Yuille",
    2018,
    "https://arxiv.org/abs/1711.01991",
)


class RandomResize(nn.Module):
    """Shrink each picture by a random factor and put it at a random place on black."""

    def __init__(self, smallest: float) -> None:
        super().__init__()
        self.smallest = smallest

    def forward(self, x: Tensor) -> Tensor:
        """Resize and move x (N, C, H, W), each row on its own."""
        if not len(x):
            return x
        factor = self.smallest + (1 - self.smallest) * torch.rand_like(x[:, 0, 0, 0])
        # a corner of the small picture, so that it stays inside
        place = (2 * torch.rand_like(x[:, 0, 0, :2]) - 1) * (1 - factor)[:, None]
        matrix = x.new_zeros(len(x), 2, 3)
        matrix[:, 0, 0] = matrix[:, 1, 1] = 1 / factor
        matrix[:, :, 2] = -place / factor[:, None]
        grid = nn.functional.affine_grid(matrix, list(x.shape), align_corners=False)
        return nn.functional.grid_sample(x, grid, align_corners=False)


@serving(papers=(XIE,), known_as=("randomisation", "random resizing and padding", "Xie et al. randomization"))
def random_resize(
    target: Classifier,
    /,
    *,
    smallest: Annotated[float, Gt(0), Le(1)] = 0.85,
    rng: Generator,
) -> Classifier:
    """Shrink and move pictures at random before they reach the model; an exhibit, broken by EOT.

    The paper enlarges pictures for nets that take any size; here they are shrunk, since most nets
    take one.

    Args:
        target: the classifier of pictures to defend.
        smallest: least factor by which a picture is shrunk, in (0, 1].
        rng: not used; factors and places are drawn when the defence answers.

    Returns:
        The classifier with resizing in front.

    Raises:
        NotApplicable: the target does not take pictures.
    """
    if len(target.shape) != 3:
        raise NotApplicable(f"Random resizing needs pictures. Got shape {target.shape}.")
    return in_front(RandomResize(smallest), target)
