"""Scenes of poisoning: victims trained from scratch on the built-in images."""

from casemate.builtin.data import fashion_mini
from casemate.builtin.target import recipe
from casemate.scenes.scene import Bar, Scene, TrainingScene

SCENES: dict[str, Scene] = {
    "poisoning.label_flip": TrainingScene(
        title="Wrong labels on 80% of the training rows cost more than leaving those rows out",
        bar=Bar("accuracy_drop", at_least=0.1, gap=0.05),
        recipe=recipe,
        data=fashion_mini,
        rate=0.8,
    ),
    "backdoor.badnets": TrainingScene(
        title="A patch on 3% of the training rows steers the victim",
        bar=Bar("attack_success", at_least=0.85, gap=0.5),
        recipe=recipe,
        data=fashion_mini,
        rate=0.03,
        source="paper",
    ),
}
