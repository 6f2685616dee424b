"""The way from a file through printer, light, lens and camera back to a file, at random."""

import io
import math
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from pydantic import AfterValidator, BaseModel, ConfigDict
from torch import Tensor

from casemate.core.errors import NotApplicable, UsageError
from casemate.ops import optics
from casemate.ops.jpeg import jpeg, rounded
from casemate.ops.rng import RowGenerator


def _ordered(value: tuple[Any, Any]) -> tuple[Any, Any]:
    if value[0] > value[1]:
        raise UsageError(f"A range of a channel must be (least, most). Got {value}.")
    return value


Share = Annotated[float, Ge(0), Le(1)]
Signed = Annotated[float, Ge(-1), Le(1)]
Shares = Annotated[tuple[Share, Share], AfterValidator(_ordered)]
Around = Annotated[tuple[Signed, Signed], AfterValidator(_ordered)]
Powers = Annotated[
    tuple[Annotated[float, Gt(0), Le(5)], Annotated[float, Gt(0), Le(5)]], AfterValidator(_ordered)
]
Degrees = Annotated[
    tuple[Annotated[float, Ge(-180), Le(180)], Annotated[float, Ge(-180), Le(180)]],
    AfterValidator(_ordered),
]
Pixels = Annotated[
    tuple[Annotated[float, Ge(0), Le(20)], Annotated[float, Ge(0), Le(20)]], AfterValidator(_ordered)
]
Quality = Annotated[
    tuple[Annotated[int, Ge(1), Le(100)], Annotated[int, Ge(1), Le(100)]], AfterValidator(_ordered)
]
DRAWN = 24  # random numbers of a draw, beside its noise


@dataclass(frozen=True)
class Draws:
    """What happened on n ways through a channel for each of N pictures; all float32.

    `corners` (N, n, 4, 2) are the points of the print, in [-1, 1], seen at the corners of the crop;
    `gain` is (N, n, 3), one per colour, `noise` (N, n, *S); the others are (N, n).
    """

    black: Tensor
    white: Tensor
    dot_gain: Tensor
    corners: Tensor
    blur: Tensor
    gain: Tensor
    offset: Tensor
    gamma: Tensor
    noise: Tensor
    quality: Tensor

    def __getitem__(self, rows: slice | Tensor) -> "Draws":
        return Draws(**{name: value[rows] for name, value in vars(self).items()})


class Channel(BaseModel):
    """Ranges from which a way through printer and camera is drawn, each uniformly (least, most).

    The file is rounded to 8 bits and printed: values come out between `black` and `white`, bent by
    the power `dot_gain`. The print is seen turned by `angle` degrees, `zoom` times as large, moved by
    `shift` and with its corners displaced by `tilt`, both in picture widths; `blur` is the lens's, as
    a standard deviation in pixels. Light multiplies by `gain`, times 1 + `cast` in each colour, and adds
    `offset`; the camera bends by the power `gamma`, adds noise of the standard deviation `noise`,
    rounds to 8 bits and writes a JPEG of quality `jpeg`. The defaults are a hand-held photograph of
    a print, cropped with care.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    black: Shares = (0.02, 0.10)
    white: Shares = (0.85, 0.98)
    dot_gain: Powers = (0.9, 1.2)
    angle: Degrees = (-10.0, 10.0)
    zoom: Powers = (0.9, 1.1)
    shift: Around = (-0.05, 0.05)
    tilt: Around = (-0.04, 0.04)
    blur: Pixels = (0.2, 0.8)
    gain: Powers = (0.8, 1.2)
    cast: Around = (-0.05, 0.05)
    offset: Around = (-0.05, 0.05)
    gamma: Powers = (0.8, 1.25)
    noise: Shares = (0.0, 0.03)
    jpeg: Quality = (60, 95)

    def sample(self, draws: int, rng: RowGenerator, shape: tuple[int, ...]) -> Draws:
        """Draw ways through the channel.

        Args:
            draws: number of ways for each row, n.
            rng: one stream per row; a row's draws depend on its stream only.
            shape: (C, H, W) of the pictures.

        Returns:
            The draws, (N, n) each.

        Raises:
            NotApplicable: inputs of this shape are no pictures in grey or colour.
        """
        if len(shape) != 3 or shape[0] not in (1, 3):
            raise NotApplicable(f"only grey and colour pictures can be printed, not inputs of shape {shape}")
        u = rng.uniform(draws, DRAWN)
        n = len(u)

        def between(limits: tuple[float, float], first: int, count: int = 1) -> Tensor:
            low, high = limits
            return low + (high - low) * u[..., first : first + count]

        corners = optics.seen_corners(
            (between(self.angle, 0) * math.pi / 180).view(-1),
            between(self.zoom, 1).reshape(-1),
            between(self.shift, 2, 2).reshape(-1, 2),
            between(self.tilt, 4, 8).reshape(-1, 4, 2),
        )
        strength = between(self.noise, 12)[..., 0]
        # sensors have noise everywhere: one number per value of the picture
        grain = rng.normal(draws, *shape) if self.noise[1] > 0 else torch.zeros(n, draws, *shape)
        return Draws(
            black=between(self.black, 13)[..., 0],
            white=between(self.white, 14)[..., 0],
            dot_gain=between(self.dot_gain, 15)[..., 0],
            corners=corners.view(n, draws, 4, 2),
            blur=between(self.blur, 16)[..., 0],
            gain=between(self.gain, 17) * (1 + between(self.cast, 18, 3)),
            offset=between(self.offset, 21)[..., 0],
            gamma=between(self.gamma, 22)[..., 0],
            noise=grain * strength[..., None, None, None],
            quality=between(self.jpeg, 23)[..., 0].round(),
        )

    def apply(self, x: Tensor, draws: Draws) -> Tensor:
        """Send pictures x (N, C, H, W) through n draws each, differentiably: (N, n, C, H, W).

        Rounding and JPEG happen, with the gradient of the identity at each rounding.
        """
        photo = _photographed(x, draws)
        quality = draws.quality.reshape(-1).to(x)
        return jpeg(photo, quality).view(*draws.blur.shape, *x.shape[1:])

    def develop(self, x: Tensor, draws: Draws) -> Tensor:
        """Send pictures as `apply` does, with true JPEG files and without a gradient, for judging."""
        with torch.no_grad():
            photo = _photographed(x, draws)
            files = true_jpeg(photo, draws.quality.reshape(-1))
        return files.view(*draws.blur.shape, *x.shape[1:])


def _photographed(x: Tensor, draws: Draws) -> Tensor:
    """Print and photograph x (N, C, H, W), up to the camera's 8-bit picture: (N * n, C, H, W)."""
    n, channels = draws.blur.shape[1], x.shape[1]

    def each(values: Tensor) -> Tensor:
        return values.reshape(-1, 1, 1, 1).to(x)

    file = rounded(255 * x) / 255
    file = file[:, None].expand(-1, n, *x.shape[1:]).flatten(0, 1)
    # half a level above 0, where the slope of a power less than 1 has no bound; a clamp there would
    # hide from the attack how to change what is black
    inked = (0.5 / 255 + (1 - 0.5 / 255) * file) ** each(draws.dot_gain)
    paper = each(draws.black) + (each(draws.white) - each(draws.black)) * inked
    seen = optics.blur(optics.warp(paper, draws.corners.flatten(0, 1)), draws.blur.flatten())
    gain = draws.gain[..., :channels].reshape(-1, channels, 1, 1).to(x)
    lit = (gain * seen + each(draws.offset)).clamp(0.5 / 255, 1)
    sensed = lit ** each(draws.gamma) + draws.noise.flatten(0, 1).to(x)
    return rounded(255 * sensed.clamp(0, 1)) / 255


def true_jpeg(x: Tensor, quality: Tensor) -> Tensor:
    """Write pictures x (B, 1 or 3, H, W) of 8 bits as JPEG files of `quality` (B,) and read them."""
    from PIL import Image

    levels = (255 * x).round().byte().movedim(1, -1).squeeze(-1) if x.shape[1] == 1 else None
    if levels is None:
        levels = (255 * x).round().byte().movedim(1, -1)
    read = []
    for picture, q in zip(levels.cpu().numpy(), quality.tolist(), strict=True):
        file = io.BytesIO()
        # colour differences at half the resolution, as cameras write them
        Image.fromarray(picture).save(file, "JPEG", quality=int(q), subsampling="4:2:0")
        read.append(np.asarray(Image.open(file)))
    if not read:
        return x
    back = torch.from_numpy(np.stack(read)).to(x.device).to(x.dtype) / 255
    return back[:, None] if x.shape[1] == 1 else back.movedim(-1, 1).contiguous()
