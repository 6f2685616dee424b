"""Scenes of targeted poisoning: a few training rows changed, labels kept, one test row in mind."""

from casemate.builtin.data import fashion_mini
from casemate.builtin.target import recipe
from casemate.core.tampering import Tampering
from casemate.scenes.scene import Bar, Scene, TargetedScene

SCENES: dict[str, Scene] = {
    "targeted.influence": TargetedScene(
        title="Ten training rows changed where they matter make a new head err on the aim",
        bar=Bar("attack_success", at_least=0.6, gap=0.3),
        budget=Tampering(poisons=10, eps=16 / 255, per_class=100),
        recipe=recipe,
        data=fashion_mini,
    ),
}
