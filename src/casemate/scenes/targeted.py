"""Scenes of targeted poisoning: a few training rows changed, labels kept, one test row in mind.

Victims fit a new head for pullovers and coats to an extractor that was trained on the other eight
classes, and that the adversary knows. These two look alike: the further apart the classes of a pair
are, the less room features leave within such budgets. Crafted on extractors of the adversary's own,
five or ten poisons reached about 20% of the aims, against 5 to 15% by noise, and on deep, normalised
nets for triangles and rings (three of the adversary's own, seed 13) one aim of twenty at most: what
lies near the aim in those lies farther from it in the victim's than before. So no scene claims
transfer. Feature collision has drawn shapes in colour and a deep, normalised, averaging
extractor, as its authors have.
"""

from collections.abc import Callable
from functools import partial

import torch

from casemate.builtin.data import fashion_mini, shapes
from casemate.builtin.nets import small_mlp, small_vgg
from casemate.builtin.target import recipe
from casemate.core.data import Samples
from casemate.core.recipe import Recipe
from casemate.core.tampering import Tampering
from casemate.scenes.scene import Bar, Scene, TargetedScene

PULLOVER_OR_COAT = (2, 4)
ONE_EXTRACTOR = {"surrogates": 1, "dropout": 0.0, "steps": 60}

PULLOVER_OR_SHIRT = (2, 6)
TRIANGLE_OR_RING = (2, 4)


def pullovers_and_shirts() -> tuple[Samples, Samples]:
    """Give 1,000 training and 400 test pictures of two classes that look alike."""
    train, test = fashion_mini()
    return _two(train), _two(test)


def pair_recipe() -> Recipe:
    """Give the recipe of nets that learn to tell the two apart from nothing."""
    net = partial(small_mlp, (1, 28, 28), 2)
    return Recipe(net, "small_mlp 1x28x28 2", epochs=20, batch=64, lr=3e-3)


def shapes_recipe() -> Recipe:
    """Give the recipe of a deep, normalised, averaging net for drawn shapes."""
    net = partial(small_vgg, (3, 32, 32), 6)
    return Recipe(net, "small_vgg 3x32x32 6", epochs=8, batch=64, lr=3e-3)


def _two(rows: Samples) -> Samples:
    kept = rows[torch.isin(rows.y, torch.tensor(PULLOVER_OR_SHIRT))]
    names = tuple(rows.names[i] for i in PULLOVER_OR_SHIRT)
    return Samples(kept.x, (kept.y == PULLOVER_OR_SHIRT[1]).long(), 2, names)


_scene: Callable[..., TargetedScene] = partial(TargetedScene, recipe=recipe, data=fashion_mini)

SCENES: dict[str, Scene] = {
    "targeted.influence": _scene(
        title="Ten of 200 training rows, changed by 16/255 where it matters, make a new head err on the aim",
        bar=Bar("attack_success", at_least=0.6, gap=0.3),
        budget=Tampering(poisons=10, eps=16 / 255, per_class=100, classes=PULLOVER_OR_COAT),
    ),
    # the goal is 40% with 1 to 2% of the rows within 16/255. Gradients match in victims too (cosines of 0.92), but rows
    # aligned to finished nets, chosen by their gradients, reached 4 of 24 aims of a development seed, one of them
    # without poison. Aligned to nets of 3 of 20 epochs: 6 of 24; and of the rows that finished nets are least sure
    # of, which pull until the end: 9 or 10 of 24, with twice the shift in log-odds. On seeds 0 and 1 58 and 50%
    # (noise: 4 and 3%), within 38/255 and of two classes alone. Tried before, with finished nets: none of ten
    # aims of all ten classes, or by nets with convolutions
    "targeted.gradient_matching": TargetedScene(
        title="Twenty of 1,000 training rows, changed by 38/255, steer nets that learn from nothing",
        bar=Bar("attack_success", at_least=0.3, gap=0.2),
        budget=Tampering(poisons=20, eps=38 / 255, victim="scratch", knows="data"),
        recipe=pair_recipe,
        data=pullovers_and_shirts,
        aims=80,
        params={"choice": "hardest", "surrogates": 4, "trained": 0.15, "steps": 80},
    ),
    # one poison within 16/255, nearest base, on seed 13: with the small net of the other scenes 4% of the aims on
    # clothes and 17% on shapes, with a residual one 38 and 21%, with wide strided ones 12 and 33%, with this one 54
    # and 71%. Steps count (100: 47%, 400: 93% of triangles and rings), and so do bases tried. Crosses and stars,
    # which such a victim tells apart in 86%, remain hard (seed 14): 25% at 100 rows a class, 60% at 50
    "targeted.feature_collision": TargetedScene(
        title="One of 200 training rows, changed by 16/255, collides with the aim in the features of a deep net",
        bar=Bar("attack_success", at_least=0.6, gap=0.3),
        budget=Tampering(poisons=1, eps=16 / 255, per_class=100, classes=TRIANGLE_OR_RING),
        recipe=shapes_recipe,
        data=partial(shapes, 5000, 2000),
        params={"steps": 300, "step": 0.005, "bases": 5},
    ),
    "targeted.convex_polytope": _scene(
        title="Ten of 100 training rows enclose the aim in features that the adversary knows",
        bar=Bar("attack_success", at_least=0.4, gap=0.3),
        budget=Tampering(poisons=10, eps=0.1, classes=PULLOVER_OR_COAT),
        params=ONE_EXTRACTOR,
    ),
    "targeted.bullseye": _scene(
        title="Ten of 100 training rows whose mean is the aim in features that the adversary knows",
        bar=Bar("attack_success", at_least=0.4, gap=0.3),
        budget=Tampering(poisons=10, eps=0.1, classes=PULLOVER_OR_COAT),
        params=ONE_EXTRACTOR,
    ),
}
