"""Scenes of targeted poisoning: a few training rows changed, labels kept, one test row in mind.

Victims fit a new head for pullovers and coats to an extractor that was trained on the other eight
classes, and that the adversary knows. These two look alike: the further apart the classes of a pair
are, the less room features leave within such budgets. Crafted on extractors of the adversary's own,
five or ten poisons reached about 20% of the aims, against 5 to 15% by noise, which is why no scene
claims transfer.
"""

from collections.abc import Callable
from functools import partial

from casemate.builtin.data import fashion_mini
from casemate.builtin.target import recipe
from casemate.core.tampering import Tampering
from casemate.scenes.scene import Bar, Scene, TargetedScene

PULLOVER_OR_COAT = (2, 4)
ONE_EXTRACTOR = {"surrogates": 1, "dropout": 0.0, "steps": 60}

_scene: Callable[..., TargetedScene] = partial(TargetedScene, recipe=recipe, data=fashion_mini)

SCENES: dict[str, Scene] = {
    "targeted.influence": _scene(
        title="Ten of 200 training rows, changed by 16/255 where it matters, make a new head err on the aim",
        bar=Bar("attack_success", at_least=0.6, gap=0.3),
        budget=Tampering(poisons=10, eps=16 / 255, per_class=100, classes=PULLOVER_OR_COAT),
    ),
    "targeted.feature_collision": _scene(
        title="Ten of 100 training rows that collide with the aim in features; one is too few on 28x28 grey pictures",
        bar=Bar("attack_success", at_least=0.3, gap=0.25),
        budget=Tampering(poisons=10, eps=0.15, classes=PULLOVER_OR_COAT),
        params={"steps": 100, "step": 0.01},
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
