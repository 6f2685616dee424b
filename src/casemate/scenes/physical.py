"""Scenes of physical attacks: what survives the way through print and camera.

The victim is the built-in classifier of clothing, which was never trained on photographs and still
reads about three in four of them. Its pictures have 784 grey values, so balls are larger than on
the photographs of the papers; a target class is drawn for each picture, because the channel alone
causes errors, but hardly ever a given one.
"""

from casemate.builtin.data import fashion_mini
from casemate.builtin.target import fashion_cnn
from casemate.core.physical import Print, Sticker
from casemate.scenes.scene import Bar, EvasionScene, Scene

SCENES: dict[str, Scene] = {
    "physical.printed": EvasionScene(
        # what is undone is at least half of what succeeds if it is half of all rows
        title="Digital examples lose most of their targeted success between printer and camera",
        bar=Bar("success_undone", at_least=0.4, gap=0.3),
        budget=Print(norm="linf", eps=44 / 255, wish="become"),
        target=fashion_cnn,
        data=fashion_mini,
        rows=150,
        source="paper",
    ),
    "physical.eot": EvasionScene(
        title="Pictures made for the whole channel get their class in most of its unseen ways",
        bar=Bar("success_rate", at_least=0.8, gap=0.5),
        budget=Print(norm="linf", eps=64 / 255, wish="become"),
        target=fashion_cnn,
        data=fashion_mini,
        rows=100,
        params={"draws": 10},
        source="paper",
    ),
    "physical.rp2": EvasionScene(
        title="Stickers on a tenth of the pixels fool in most unseen ways of the channel",
        bar=Bar("success_rate", at_least=0.7, gap=0.3),
        budget=Sticker(area=0.1, wish="become"),
        target=fashion_cnn,
        data=fashion_mini,
        rows=80,
        source="paper",
    ),
}
