"""Independent readers of an input's meaning: nets of other kinds than usual targets, trained on other data."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from casemate.assess.bench import Bench
from casemate.core.data import Samples
from casemate.core.errors import NotApplicable
from casemate.core.recipe import Recipe
from casemate.core.target import Classifier
from casemate.core.tick import Tick
from casemate.ops.rng import seed_of

ROWS = 500  # fewer make no reader to trust


@dataclass(frozen=True)
class Jury:
    """Several classifiers that vote."""

    members: tuple[Classifier, ...]

    def keeps(self, x: Tensor, y: Tensor) -> Tensor:
        """Tell which inputs x (N, *S) most of them read as y (N,), (N,) bool."""
        votes = torch.stack([each.predict(x).argmax(1) == y for each in self.members])
        return votes.sum(0) * 2 > len(self.members)


def jury(bench: Bench, held: Tensor, seed: int, tick: Tick, *, colour: bool = True) -> Jury:
    """Train three readers, once for all cases of a run.

    They learn from the target's training rows and from the test rows that are not attacked, which neither
    the target nor a generator has seen, and they are three kinds of convolutional nets.

    Args:
        bench: the target's data, and how nets are trained.
        held: numbers of the test rows that are attacked, (M,).
        seed: base seed.
        tick: called in the course of the training.
        colour: False lets them see nothing but brightness.

    Returns:
        The readers.

    Raises:
        NotApplicable: the inputs are no images, or there are too few rows to learn from.
    """
    name = f"jury {seed} {colour} {held.tolist()}"
    if name not in bench.cache:
        rest = torch.ones(len(bench.test), dtype=torch.bool)
        rest[held] = False
        data = bench.test[rest]
        if bench.train is not None:
            x, y = torch.cat([bench.train.x, data.x]), torch.cat([bench.train.y, data.y])
            data = Samples(x, y, max(bench.train.classes, data.classes))
        if data.x.dim() != 4 or len(data) < ROWS:
            raise NotApplicable(
                f"independent readers of the meaning need at least {ROWS} images to learn from"
            )
        shape = data.shape if colour else (1, *data.shape[1:])
        jobs = [
            (_recipe(make, shape, data.classes, colour), data, seed_of(seed, "jury", i))
            for i, make in enumerate((wide_cnn, strided_cnn, deep_cnn))
        ]
        bench.cache[name] = Jury(tuple(bench.train_many(jobs, tick=tick)))
    found: Jury = bench.cache[name]
    return found


Make = Callable[[tuple[int, ...], int], nn.Module]


def _recipe(make: Make, shape: tuple[int, ...], classes: int, colour: bool) -> Recipe:
    built = partial(make, shape, classes)
    name = f"{make.__name__} {shape} {classes}"
    return Recipe(built if colour else partial(_Grey, built), name if colour else f"grey {name}", epochs=6)


class _Grey(nn.Module):
    """A net that is shown each pixel's largest colour alone: its value, which no shift of hue can change."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.net = make()

    def forward(self, x: Tensor) -> Tensor:
        """Classify x (N, 3, H, W)."""
        out: Tensor = self.net(x.amax(1, keepdim=True))
        return out


def wide_cnn(shape: tuple[int, ...], classes: int, /) -> nn.Module:
    """Build a net of wide kernels, with batch normalisation."""
    return nn.Sequential(
        nn.Conv2d(shape[0], 16, 5, padding=2),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.Conv2d(16, 32, 5, padding=2),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.Flatten(),
        nn.Linear(32 * -(-shape[1] // 4) * -(-shape[2] // 4), classes),
    )


def strided_cnn(shape: tuple[int, ...], classes: int, /) -> nn.Module:
    """Build a net that halves by strides, with dropout."""
    return nn.Sequential(
        nn.Conv2d(shape[0], 24, 4, stride=2, padding=1),
        nn.ELU(),
        nn.Conv2d(24, 48, 4, stride=2, padding=1),
        nn.ELU(),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(48 * (shape[1] // 4) * (shape[2] // 4), 96),
        nn.ELU(),
        nn.Linear(96, classes),
    )


def deep_cnn(shape: tuple[int, ...], classes: int, /) -> nn.Module:
    """Build a net of four convolutions that ends in the mean over all places."""
    layers: list[nn.Module] = []
    for before, after, stride in ((shape[0], 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2)):
        layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * 64, classes))
