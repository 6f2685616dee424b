"""Spaces in which semantic attacks move: codes that the harness turns into inputs itself.

An attack returns codes, so what it may do holds by construction: the judge clips and decodes them.
"""

import copy
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, Protocol, Self, assert_never

import torch
from torch import Tensor, nn

from casemate.core.errors import NotApplicable, UsageError
from casemate.core.semantic import Attributes, Colours, Conditional, Latent, SemanticBudget
from casemate.core.threat import Goal, Misclassify
from casemate.generators.files import load
from casemate.generators.models import ConditionalModel, LatentModel, Model
from casemate.ops.colours import from_hsv, to_hsv
from casemate.ops.rng import RowGenerator


class Space(Protocol):
    """Codes (N, A) of N inputs, and what they stand for.

    `start` are the codes of the inputs as they are, `scale` (A,) the largest change of each value, and
    `groups` the columns that belong to one attribute each.
    """

    @property
    def start(self) -> Tensor:
        """Codes of the inputs, (N, A)."""
        ...

    @property
    def scale(self) -> Tensor:
        """Largest change of each value, (A,)."""
        ...

    @property
    def groups(self) -> tuple[slice, ...]:
        """Columns of each attribute."""
        ...

    def __getitem__(self, rows: slice | Tensor) -> Self:
        """Restrict the space to some rows (repeats allowed)."""
        ...

    def clip(self, codes: Tensor) -> Tensor:
        """Bring codes (N, A) to the nearest ones that are allowed."""
        ...

    def decode(self, codes: Tensor) -> Tensor:
        """Make inputs (N, *S) in [0, 1] of codes, with a graph if these ask for one."""
        ...

    def draw(self, rng: RowGenerator) -> Tensor:
        """Draw an allowed code for each row, (N, A)."""
        ...


def space_of(budget: SemanticBudget, x: Tensor, goal: Goal) -> Space:
    """Open the space that a budget allows around inputs x (N, *S).

    Raises NotApplicable if it does not fit the inputs, UsageError if a generator cannot be had.
    """
    match budget:
        case Latent():
            model = _model(budget.generator, x)
            if not isinstance(model, LatentModel):
                raise NotApplicable(f"the generator {budget.generator} has no inverter")
            return LatentSpace(model, _encoded(model, x), budget.radius)
        case Conditional():
            model = _model(budget.generator, x)
            if not isinstance(model, ConditionalModel):
                raise NotApplicable(f"the generator {budget.generator} cannot be asked for a class")
            return ConditionalSpace(model, _classes(goal, model.classes), budget.spread, budget.noise, x)
        case Colours():
            if x.dim() != 4 or x.shape[1] != 3:
                raise NotApplicable("only pictures of three colours have a hue")
            return ColourSpace(x, budget.hue, budget.saturation)
        case Attributes():
            # renderers come with the data they draw, a layer above, and are found by name
            opened: Space = import_module(f"casemate.builtin.{budget.renderer}_space").space(budget, x)
            return opened
    assert_never(budget)


def _model(name: str, x: Tensor) -> Model:
    try:
        model = load(name)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if model.shape != tuple(x.shape[1:]):
        made, given = ("x".join(map(str, shape)) for shape in (model.shape, x.shape[1:]))
        raise NotApplicable(f"the generator {name} makes {made}, not {given}: no generator for this data")
    if x.device.type == "cpu":
        return model
    nets: dict[str, Any] = {
        name: copy.deepcopy(v).to(x.device) for name, v in vars(model).items() if isinstance(v, nn.Module)
    }
    return replace(model, **nets)


def _classes(goal: Goal, classes: int) -> Tensor:
    if not isinstance(goal, Misclassify):
        raise NotApplicable("an input made for its class needs the goal Misclassify")
    if len(goal.y) and int(goal.y.max()) >= classes:
        raise NotApplicable(f"the generator knows {classes} classes")
    return goal.y


def _encoded(model: LatentModel, x: Tensor) -> Tensor:
    with torch.no_grad():
        parts = [model.encode(part.float()) for part in x.split(250)]
    return torch.cat(parts).to(x.dtype) if parts else x.new_zeros(0, model.latent)


@dataclass(frozen=True)
class LatentSpace:
    """Codes of a generator in a ball around the codes of the inputs."""

    model: LatentModel
    start: Tensor
    radius: float

    @property
    def scale(self) -> Tensor:
        """Radius of the ball, for each value."""
        return self.start.new_full((self.model.latent,), self.radius)

    @property
    def groups(self) -> tuple[slice, ...]:
        """Each value of a code on its own."""
        return tuple(slice(i, i + 1) for i in range(self.model.latent))

    def __getitem__(self, rows: slice | Tensor) -> "LatentSpace":
        return LatentSpace(self.model, self.start[rows], self.radius)

    def clip(self, codes: Tensor) -> Tensor:
        """Project codes onto the ball."""
        delta = codes - self.start
        length = delta.norm(dim=1, keepdim=True)
        shrink = torch.where(length > self.radius, self.radius / length, torch.ones_like(length))
        # rows inside stay as they are, to the last bit
        return torch.where(length > self.radius, self.start + delta * shrink, codes)

    def decode(self, codes: Tensor) -> Tensor:
        """Make what the codes stand for."""
        return self.model.decode(codes.float()).to(codes.dtype)

    def draw(self, rng: RowGenerator) -> Tensor:
        """Draw directions uniformly and distances uniformly up to the radius."""
        way = rng.normal(self.model.latent).to(self.start)
        length = rng.uniform(1).to(self.start) * self.radius
        drawn: Tensor = self.start + way / way.norm(dim=1, keepdim=True) * length
        return drawn


@dataclass(frozen=True)
class ConditionalSpace:
    """Codes of inputs made for classes `y` (N,), each followed by its noise before the tanh, if there is any."""

    model: ConditionalModel
    y: Tensor
    spread: float
    noise: float
    like: Tensor

    @property
    def start(self) -> Tensor:
        """Codes of zero: nothing here stands for the inputs themselves."""
        size = self.model.latent + (self.like[0].numel() if self.noise and len(self.like) else 0)
        return self.like.new_zeros(len(self.y), size)

    @property
    def scale(self) -> Tensor:
        """Usual deviation of each value."""
        return self.start.new_ones(self.start.shape[1])

    @property
    def groups(self) -> tuple[slice, ...]:
        """The code, and the noise."""
        ends = (self.model.latent, *([self.start.shape[1]] if self.noise else []))
        return tuple(slice(a, b) for a, b in zip((0, *ends), ends, strict=False))

    def __getitem__(self, rows: slice | Tensor) -> "ConditionalSpace":
        return ConditionalSpace(self.model, self.y[rows], self.spread, self.noise, self.like[rows])

    def clip(self, codes: Tensor) -> Tensor:
        """Shorten codes that are longer than allowed; the tanh bounds the noise."""
        z, tau = codes.split([self.model.latent, codes.shape[1] - self.model.latent], 1)
        longest = self.spread * self.model.latent**0.5
        length = z.norm(dim=1, keepdim=True)
        short = torch.where(length > longest, z * (longest / length), z)
        return torch.cat([short, tau], 1)

    def decode(self, codes: Tensor) -> Tensor:
        """Make an input of its class from each code, and add the noise."""
        z, tau = codes.float().split([self.model.latent, codes.shape[1] - self.model.latent], 1)
        x = self.model.decode(z, self.y)
        if self.noise:
            x = (x + self.noise * tau.tanh().view_as(x)).clamp(0, 1)
        return x.to(codes.dtype)

    def draw(self, rng: RowGenerator) -> Tensor:
        """Draw codes from the standard normal distribution, and uniform noise."""
        z = rng.normal(self.model.latent)
        if not self.noise:
            return self.clip(z.to(self.like))
        tau = (rng.uniform(*self.like.shape[1:]).flatten(1) * 2 - 1).clamp(-0.999, 0.999).atanh()
        return self.clip(torch.cat([z, tau], 1).to(self.like))


@dataclass(frozen=True)
class ColourSpace:
    """A shift of hue and one of saturation for each picture `x` (N, 3, H, W)."""

    x: Tensor
    hue: float
    saturation: float

    @property
    def start(self) -> Tensor:
        """No shift."""
        return self.x.new_zeros(len(self.x), 2)

    @property
    def scale(self) -> Tensor:
        """Largest shifts of hue and saturation."""
        return self.x.new_tensor([self.hue, self.saturation])

    @property
    def groups(self) -> tuple[slice, ...]:
        """Hue and saturation."""
        return (slice(0, 1), slice(1, 2))

    def __getitem__(self, rows: slice | Tensor) -> "ColourSpace":
        return ColourSpace(self.x[rows], self.hue, self.saturation)

    def clip(self, codes: Tensor) -> Tensor:
        """Keep the largest shifts."""
        return torch.maximum(torch.minimum(codes, self.scale), -self.scale)

    def decode(self, codes: Tensor) -> Tensor:
        """Shift the pictures' colours; a shift of zero leaves a picture as it is, to the last bit."""
        hue, saturation, value = to_hsv(self.x).unbind(1)
        shift, more = codes[:, 0, None, None], codes[:, 1, None, None]
        moved = from_hsv(torch.stack([(hue + shift) % 1, (saturation + more).clamp(0, 1), value], 1))
        still = (codes == 0).all(1)[:, None, None, None]
        return torch.where(still, self.x, moved)

    def draw(self, rng: RowGenerator) -> Tensor:
        """Draw shifts uniformly."""
        return (rng.uniform(2).to(self.x) * 2 - 1) * self.scale
