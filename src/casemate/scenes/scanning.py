"""Scenes of scannings: small models with and without a backdoor."""

from typing import Any

from casemate.builtin.data import digits, fashion_mini
from casemate.builtin.target import recipe
from casemate.scenes.backdoors import digit_recipe
from casemate.scenes.scene import Bar, ScanningScene, Scene


def _digits(title: str, attack: str, rate: float, bar: float, **params: Any) -> ScanningScene:
    return ScanningScene(
        title=title,
        bar=Bar("detection_rate", at_least=bar, gap=0.4),
        attack=attack,
        rate=rate,
        recipe=digit_recipe,
        data=digits,
        attack_params=params,
    )


SCENES: dict[str, Scene] = {
    "scanning.neural_cleanse": _digits(
        "Neural Cleanse names the class of a patch backdoor in digits", "backdoor.badnets", 0.1, 0.75, patch=2
    ),
    "scanning.least_perturbation": _digits(
        "The least perturbation names the class of a blended backdoor", "backdoor.blended", 0.1, 0.75
    ),
    # warps by a pixel of eight by eight are no smaller than those that call up other digits
    "scanning.warp_inversion": ScanningScene(
        title="The least warp names the class of WaNet on clothes",
        bar=Bar("detection_rate", at_least=0.75, gap=0.4),
        attack="backdoor.wanet",
        rate=0.2,
        recipe=recipe,
        data=fashion_mini,
        attack_params={"strength": 1.5},
    ),
    "scanning.artificial_brain_stimulation": _digits(
        "ABS names the class of a blended backdoor", "backdoor.blended", 0.1, 0.75
    ),
}
