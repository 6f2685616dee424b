"""The pictures of a human study: from an assessment's folder, or made of the built-in data as the paper makes them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from casemate.assess.store import Store
from casemate.assess.surrogates import known, recipe
from casemate.builtin.data import fashion_mini
from casemate.builtin.target import fashion_cnn
from casemate.core.data import Samples
from casemate.core.ensemble import mean_logits
from casemate.core.errors import UsageError
from casemate.core.registry import find
from casemate.core.target import Classifier, GradientOracle
from casemate.core.threat import Become, Lp, NeverReached
from casemate.core.workers import train_many
from casemate.ops.rng import generator, rows, seed_of

EPS = 32 / 255
NETS = ("mlp", "patches", "resnet", "strided")
# T-shirt and shirt, pullover and coat, sandal, sneaker and boot; the other classes have no like
ALIKE = {0: 6, 6: 0, 2: 4, 4: 2, 5: 7, 7: 9, 9: 7}
TRIES = 3  # pictures tried for each that is wanted


@dataclass(frozen=True)
class Stimulus:
    """One picture x (C, H, W) with its adversarial form, its class, and the class it is to look like."""

    x: Tensor
    x_adv: Tensor
    label: str
    target: str

    @property
    def flip(self) -> Tensor:
        """The original under the change turned upside down."""
        return (self.x + (self.x_adv - self.x).flip(-2)).clamp(0, 1)


@dataclass(frozen=True)
class Shown:
    """The pictures of a study, and a sentence that says how they were chosen."""

    stimuli: tuple[Stimulus, ...]
    origin: str


def stimuli(source: str, count: int, seed: int, nets: Sequence[str] = NETS) -> Shown:
    """Read adversarial pictures of an assessment's folder, or make some of the built-in data.

    Args:
        source: folder of an assessment, or "builtin".
        count: most pictures to show.
        seed: chooses the pictures, and trains the nets that they are made on.
        nets: kinds of nets (see `assess.surrogates`) that pictures of the built-in data must fool
            beside the built-in target.

    Returns:
        The stimuli, no original twice.

    Raises:
        UsageError: there are no pictures, too few classes for a choice that is wrong both ways, or no
            such kind of net.
    """
    if source == "builtin":
        found, origin = _made(count, seed, known(tuple(nets)))
    else:
        found = _kept(Path(source))
        origin = f"{len(found)} pictures that an assessment keeps of its attacks"
    if not found:
        raise UsageError(f"A study needs adversarial pictures. Got {source}, which keeps none.")
    order = torch.randperm(len(found), generator=generator(seed, "stimuli")).tolist()
    shown = [found[i] for i in order[:count]]
    if len({s.label for s in shown} | {s.target for s in shown}) < 3:
        raise UsageError("A study needs pictures of at least three classes; a larger --count may have them.")
    return Shown(tuple(shown), origin)


def _made(count: int, seed: int, nets: tuple[str, ...]) -> tuple[list[Stimulus], str]:
    """Make pictures of alike classes on several nets, and keep those that fool every one of them."""
    train, test = fashion_mini()
    jobs = [(recipe(name, train), train, seed_of(seed, "net of a study", name)) for name in nets]
    members = [fashion_cnn(), *train_many(jobs)]
    fit = agreed(members, test) & torch.tensor([int(label) in ALIKE for label in test.y])
    order = torch.randperm(len(test), generator=generator(seed, "builtin"))
    some = test[order[fit[order]][: TRIES * count]]
    target = torch.tensor([ALIKE[int(label)] for label in some.y], dtype=torch.int64)
    x_adv = crafted(members, some.x, target, seed)
    kept = agreed(members, Samples(x_adv, target, test.classes))
    found = [
        Stimulus(some.x[i], x_adv[i], test.names[int(some.y[i])], test.names[int(target[i])])
        for i in kept.nonzero().flatten().tolist()
    ]
    said = ", ".join(("the built-in cnn", *nets))
    return found, (
        f"{len(found)} of {len(some)} pictures of alike classes that all of {len(members)} nets got right "
        f"now fool them all: {said}"
    )


def crafted(members: Sequence[Classifier], x: Tensor, target: Tensor, seed: int) -> Tensor:
    """Make pictures x (N, C, H, W) look like their targets (N,), in the 8 bits in which a page shows them."""
    human = find("evasion.human")
    x_adv: Tensor = human.run(
        GradientOracle(mean_logits(members), len(x)), x, NeverReached(Become(target)),
        Lp(norm="linf", eps=EPS), rng=rows(seed, len(x)), **human.validate({}),
    )  # fmt: skip
    # originals and radius are whole levels, so that rounding does not leave the ball
    return (x_adv * 255).round() / 255


def agreed(members: Sequence[Classifier], some: Samples) -> Tensor:
    """Mark the rows (N,) to which every member gives the label."""
    return torch.stack([net.predict(some.x).argmax(1) == some.y for net in members]).all(0)


def _kept(folder: Path) -> list[Stimulus]:
    store = Store(folder)
    names = store.assessment().names
    found: dict[bytes, Stimulus] = {}
    for result in store.all():
        tensors = store.tensors(result) if result.case.family == "evasion" else {}
        if "gallery_pred" not in tensors or tensors["gallery_x"].dim() != 4:
            continue
        parts = (tensors[f"gallery_{part}"] for part in ("x", "adv", "y", "pred"))
        for x, adv, y, t in zip(*parts, strict=True):
            label, target = (names[int(c)] if names else f"class {int(c)}" for c in (y, t))
            if x.shape[0] in (1, 3):
                found.setdefault(x.numpy().tobytes(), Stimulus(x, adv, label, target))
    return list(found.values())
