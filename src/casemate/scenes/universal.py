"""Scenes of universal attacks: one change, or one network that makes it, for all inputs."""

from casemate.builtin.target import fashion_cnn
from casemate.core.pasting import Pasting
from casemate.core.threat import Lp
from casemate.scenes.scene import Bar, EvasionScene, Scene

# at 0.1 the built-in classifier gives random signs 7% and the attack 28%; at 0.2 both ends are clear
WIDE = Lp(norm="linf", eps=0.2)

SCENES: dict[str, Scene] = {
    "universal.uap": EvasionScene(
        title="One perturbation within linf 0.2 changes most answers on images never seen",
        bar=Bar("fooling_rate", at_least=0.5, gap=0.3),
        budget=WIDE,
        target=fashion_cnn,
        rows=500,
    ),
    "universal.deepfool_uap": EvasionScene(
        # gradients fool 75 to 78% here, this 57 to 69%: the sum ends where the order of the images leads it
        title="A sum of DeepFool steps within linf 0.2 changes half of the answers on images never seen",
        bar=Bar("fooling_rate", at_least=0.5, gap=0.2),
        budget=WIDE,
        target=fashion_cnn,
        rows=500,
    ),
    "universal.gap": EvasionScene(
        title="A network makes perturbations within linf 0.2 that change half of the answers",
        bar=Bar("fooling_rate", at_least=0.5, gap=0.2),
        budget=WIDE,
        target=fashion_cnn,
        rows=500,
    ),
    "universal.atn": EvasionScene(
        title="A network brings one class first and leaves the true one second, within l2 5",
        bar=Bar("success_rate", at_least=0.75, gap=0.5),
        budget=Lp(norm="l2", eps=5.0),
        target=fashion_cnn,
        rows=500,
        params={"target": 3},
    ),
    "universal.patch": EvasionScene(
        title="One patch on a fifth of the image misleads wherever it lies",
        bar=Bar("success_rate", at_least=0.3, gap=0.1),
        budget=Pasting(area=0.2),
        target=fashion_cnn,
        rows=500,
    ),
}
