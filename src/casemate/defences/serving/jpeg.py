"""JPEG compression."""

import math
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Generator, Tensor, nn

from casemate.core.errors import NotApplicable
from casemate.core.registry import Paper, serving
from casemate.core.target import Classifier
from casemate.defences.serving.front import in_front

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
# the example tables of the JPEG standard (ITU-T T.81, annex K): brightness and colour at quality 50
BRIGHTNESS = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
COLOUR = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *(((99,) * 8,) * 4),
)
TO_YCBCR = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


class Jpeg(nn.Module):
    """Compress and decompress pictures (N, C, H, W) in [0, 1], C = 1 or 3.

    What loses nothing (the entropy coding) is left out, and so is the sampling of colours at half
    resolution, which encoders may choose.
    """

    basis: Tensor
    tables: Tensor
    colours: Tensor

    def __init__(self, quality: int, channels: int) -> None:
        super().__init__()
        k = torch.arange(8, dtype=torch.float64)
        basis = torch.cos((2 * k[None] + 1) * k[:, None] * math.pi / 16) / 2
        basis[0] /= math.sqrt(2)
        scale = 5000 / quality if quality < 50 else 200 - 2 * quality
        tables = torch.tensor([BRIGHTNESS, COLOUR, COLOUR][:channels], dtype=torch.float64)
        tables = ((tables * scale + 50) / 100).floor().clamp(1, 255)
        self.quality = quality
        self.register_buffer("basis", basis.float())
        self.register_buffer("tables", tables.float())
        self.register_buffer("colours", torch.tensor(TO_YCBCR))

    def forward(self, x: Tensor) -> Tensor:
        """Compress x with true rounding."""
        return self._compressed(x, soft=False)

    def stand_in(self, x: Tensor, /) -> Tensor:
        """Compress x with the cubic rounding of Shin & Song, which has a gradient."""
        return self._compressed(x, soft=True)

    def _compressed(self, x: Tensor, *, soft: bool) -> Tensor:
        height, width = x.shape[2:]
        basis, tables = self.basis.to(x), self.tables.to(x)[:, None, None]
        z = 255 * x - 128 if x.shape[1] == 1 else torch.einsum("dc,nchw->ndhw", self.colours.to(x), 255 * x)
        if x.shape[1] == 3:
            z = z - z.new_tensor([128.0, 0.0, 0.0])[:, None, None]
        z = nn.functional.pad(z, (0, -width % 8, 0, -height % 8), mode="replicate")
        n, c, h, w = z.shape
        blocks = z.view(n, c, h // 8, 8, w // 8, 8).transpose(3, 4)  # (N, C, h/8, w/8, 8, 8)
        levels = basis @ blocks @ basis.T / tables
        nearest = levels.round().detach()
        levels = nearest + (levels - nearest) ** 3 if soft else nearest
        blocks = basis.T @ (levels * tables) @ basis
        z = blocks.transpose(3, 4).reshape(n, c, h, w)[:, :, :height, :width]
        if c == 3:
            z = z + z.new_tensor([128.0, 0.0, 0.0])[:, None, None]
            z = torch.einsum("dc,nchw->ndhw", torch.linalg.inv(self.colours.double()).to(x), z)
        else:
            z = z + 128
        return (z / 255).clamp(0, 1)


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
    return in_front(Jpeg(quality, target.shape[0]), target)
