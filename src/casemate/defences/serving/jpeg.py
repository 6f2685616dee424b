"""JPEG compression."""

from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Generator, Tensor, nn

from casemate.core.errors import NotApplicable
from casemate.core.registry import Paper, serving
from casemate.core.target import Classifier
from casemate.defences.serving.front import in_front
from casemate.ops.jpeg import Rounding, softly_rounded
from casemate.ops.jpeg import jpeg as compress

DZIUGAITE = Paper(
    "A study of the effect of JPG compression on adversarial images",
    "Dziugaite, Ghahramani, Roy",
    2016,
    "https://arxiv.org/abs/1608.00853",
)
GUO = Paper(
    "Countering adversarial images using input transformations",
    "Guo, Rana, Cisse, van der Maaten",
    2018,
    "https://arxiv.org/abs/1711.00117",
)
SHIN = Paper(
    "JPEG-resistant adversarial images",
    "Shin, Song",
    2017,
    "https://machine-learning-and-security.github.io/papers/mlsec17_paper_54.pdf",
)


class Jpeg(nn.Module):
    """Compress and decompress pictures (N, C, H, W) in [0, 1], C = 1 or 3, colours at full resolution."""

    def __init__(self, quality: int) -> None:
        super().__init__()
        self.quality = quality

    def forward(self, x: Tensor) -> Tensor:
        """Compress x with true rounding."""
        return self._compressed(x, torch.round)

    def stand_in(self, x: Tensor, /) -> Tensor:
        """Compress x with the cubic rounding of Shin & Song, which has a gradient."""
        return self._compressed(x, softly_rounded)

    def _compressed(self, x: Tensor, rounding: Rounding) -> Tensor:
        quality = x.new_full((len(x),), float(self.quality))
        return compress(x, quality, rounding=rounding, half_colours=False)


@serving(papers=(DZIUGAITE, GUO, SHIN), known_as=("JPEG compression",))
def jpeg(
    target: Classifier,
    /,
    *,
    quality: Annotated[int, Ge(1), Le(100)] = 50,
    rng: Generator,
) -> Classifier:
    """Compress pictures as JPEG before they reach the model; an exhibit, broken by BPDA.

    Its rounding has no gradient; that of a smooth rounding takes its place in `evasion.bpda`.

    Args:
        target: the classifier of pictures to defend.
        quality: quality setting of the encoder, 1 to 100; lower loses more.
        rng: not used; the defence is deterministic.

    Returns:
        The classifier with compression in front.

    Raises:
        NotApplicable: the target does not take pictures of one or three channels.
    """
    if len(target.shape) != 3 or target.shape[0] not in (1, 3):
        raise NotApplicable(f"JPEG needs pictures of one or three channels. Got shape {target.shape}.")
    return in_front(Jpeg(quality), target)
