"""Scenes of membership inference: a victim that has seen few images, many times."""

from dataclasses import replace

from casemate.builtin.data import fashion_mini
from casemate.builtin.target import recipe
from casemate.core.recipe import Recipe
from casemate.scenes.scene import Bar, Scene, TrainingScene


def overfitting() -> Recipe:
    """Train the built-in net far beyond what its data supports."""
    return replace(recipe(), epochs=40)


SCENES: dict[str, Scene] = {
    "membership.loss": TrainingScene(
        title="An overfitted model gives its training rows away by their loss",
        bar=Bar("auc", at_least=0.55, gap=0.04),
        recipe=overfitting,
        data=fashion_mini,
        rows=1000,
        train_rows=1000,
        repeats=1,
    ),
    "membership.lira": TrainingScene(
        title="Shadow models tell members at low false-positive rates",
        bar=Bar("auc", at_least=0.6, gap=0.06),
        recipe=overfitting,
        data=fashion_mini,
        rows=1000,
        train_rows=1000,
        repeats=1,
        params={"shadows": 16},
    ),
}
