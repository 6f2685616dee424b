"""Scenes of defences: the attack with and without them."""

from dataclasses import replace

from casemate.builtin.data import fashion_mini
from casemate.builtin.target import recipe
from casemate.core.recipe import Recipe
from casemate.core.threat import Lp
from casemate.scenes.scene import Bar, DefenceScene, Scene


def longer() -> Recipe:
    """Give the built-in net the passes that training on attacked images needs."""
    return replace(recipe(), epochs=10)


def _hardened(name: str) -> DefenceScene:
    return DefenceScene(
        title=f"{name} training raises accuracy under attack at linf 0.1",
        bar=Bar("robust_accuracy", at_least=0.5, gap=0.3),
        attack="evasion.apgd",
        recipe=longer,
        data=fashion_mini,
        budget=Lp(norm="linf", eps=0.1),
        rows=300,
        repeats=1,
        price=0.15,
        params={"eps": 0.1},
        attack_params={"loss": "margin"},
    )


SCENES: dict[str, Scene] = {
    "training.adversarial": _hardened("Adversarial"),
    "training.trades": _hardened("TRADES"),
    "training.interval": DefenceScene(
        title="A net trained on interval bounds withstands linf 0.1; it costs more clean accuracy than the others",
        bar=Bar("robust_accuracy", at_least=0.5, gap=0.3),
        attack="evasion.apgd",
        recipe=longer,
        data=fashion_mini,
        budget=Lp(norm="linf", eps=0.1),
        rows=300,
        repeats=1,
        price=0.25,
        params={"eps": 0.1},
        attack_params={"loss": "margin"},
    ),
    "screening.spectral": DefenceScene(
        title="Spectral signatures find a patch backdoor; the victim trained on the rest is clean",
        bar=Bar("attack_success", at_most=0.1, gap=0.5),
        attack="backdoor.badnets",
        recipe=recipe,
        data=fashion_mini,
        rate=0.03,
    ),
    "repair.fine_pruning": DefenceScene(
        # a patch that shares neurons with clothes survives in part: 10% is out of its reach here
        title="Fine-pruning breaks the grip of a patch backdoor on most inputs",
        bar=Bar("attack_success", at_most=0.5, gap=0.4),
        attack="backdoor.badnets",
        recipe=recipe,
        data=fashion_mini,
        rate=0.03,
    ),
}
