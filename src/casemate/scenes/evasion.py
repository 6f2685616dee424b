"""Scenes of evasion: the built-in classifier of real clothing images."""

from casemate.builtin.data import fashion_mini
from casemate.builtin.target import fashion_cnn
from casemate.core.registry import Entry
from casemate.core.threat import Lp
from casemate.ops.norms import Norm
from casemate.scenes.scene import Bar, EvasionScene, Scene

RADII: dict[Norm, float] = {"linf": 0.1, "l2": 1.5, "l1": 20.0, "l0": 20}


def standard(entry: Entry) -> EvasionScene:
    """Build the family's standard scene in the first norm that a method knows."""
    norm = entry.norms[0]
    return EvasionScene(
        title=f"{entry.name} fools the built-in classifier within {norm} {RADII[norm]:g}",
        bar=Bar("success_rate", at_least=0.5, gap=0.3),
        budget=Lp(norm=norm, eps=RADII[norm]),
        target=fashion_cnn,
        data=fashion_mini,
    )


SCENES: dict[str, Scene] = {
    "evasion.random_noise": EvasionScene(
        title="Noise that fills a large ball fools some rows: the yardstick is not zero",
        bar=Bar("success_rate", at_least=0.05),
        budget=Lp(norm="linf", eps=0.3),
        target=fashion_cnn,
        data=fashion_mini,
        params={"draws": 10},
    ),
    "evasion.hop_skip_jump": EvasionScene(
        title="Decisions alone suffice to find images near the boundary",
        bar=Bar("success_rate", at_least=0.5, gap=0.3),
        budget=Lp(norm="l2", eps=2.0, queries=2000),
        target=fashion_cnn,
        data=fashion_mini,
        rows=60,
    ),
}
