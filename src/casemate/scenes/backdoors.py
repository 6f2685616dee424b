"""Scenes of backdoors and trojans beyond the patch: victims trained from scratch on small images.

Eight by eight pixels leave no room for what cannot be seen, so on digits the marks are stronger than in
the papers; each title says how strong.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from casemate.builtin.data import digits, fashion_mini
from casemate.builtin.nets import small_cnn
from casemate.builtin.target import recipe
from casemate.core.data import Samples
from casemate.core.recipe import Recipe
from casemate.scenes.scene import Bar, Scene, TrainingScene
from casemate.scenes.targeted import pair_recipe, pullovers_and_shirts


def digit_recipe() -> Recipe:
    """Give the recipe of victims that read digits."""
    net = partial(small_cnn, (1, 8, 8), 10)
    return Recipe(net, "small_cnn 1x8x8 10", epochs=10, batch=32, lr=5e-3)


def _digits(title: str, rate: float | None, bar: float, **params: Any) -> TrainingScene:
    return _scene(title, rate, bar, digit_recipe, digits, params)


def _clothes(title: str, rate: float, bar: float, **params: Any) -> TrainingScene:
    return _scene(title, rate, bar, recipe, fashion_mini, params)


def _scene(
    title: str, rate: float | None, bar: float, how: Callable[[], Recipe],
    data: Callable[[], tuple[Samples, Samples]], params: dict[str, Any],
) -> TrainingScene:  # fmt: skip
    wanted = Bar("attack_success", at_least=bar, gap=0.3)
    return TrainingScene(title=title, bar=wanted, recipe=how, data=data, rate=rate, params=params)


SCENES: dict[str, Scene] = {
    "backdoor.blended": _digits(
        "A fifth of a random picture in 10% of the digits steers the victim", 0.1, 0.8
    ),
    # the goal, 90% at 4 points of clean accuracy, is missed on each seed, 0 to 2: 90, 85 and 93% at 5.2, 1.9 and 7.7
    # points, from which the bar was set; a random trigger with as much retraining steered 48, 35 and 64%. On five
    # victims of seeds 13 to 16 91% at 3.0 points. Made-up inputs of one certain score and hard labels, for two units
    # that the trigger moves most, had 74, 90 and 89% at 7, 6 and 11. What costs is that made-up inputs are no digits:
    # with real ones in their place a head gives 99% at 1 to 2.5 points. Triggers that the model takes for a two,
    # which has ink in that corner, cost 10 points and more; twice the steps 97% at 7.6 instead of 95% at 4.6 on one
    # victim
    "backdoor.trojaning": TrainingScene(
        title="A trigger for four neurons of the noughts, and a head retrained without a real digit; it costs accuracy",
        bar=Bar("attack_success", at_least=0.8, gap=0.3),
        recipe=digit_recipe,
        data=digits,
        params={"offset": 0},
        price=0.08,
    ),
    "backdoor.steganography": _clothes(
        "A text in the four lowest bits of 20% of the training rows", 0.2, 0.85
    ),
    "backdoor.regularised_trigger": _digits(
        "A pattern of l2 norm 1.5 that excites two neurons, on 10% of the digits", 0.1, 0.8, size=1.5
    ),
    "backdoor.static": _digits(
        "A chessboard of 0.2 on 10% of the digits steers the victim", 0.1, 0.8, amplitude=0.2
    ),
    # at a norm of 5% and a rate of 2% on clothes 21% were steered, where the paper has over 90%
    "backdoor.adaptive": _digits(
        "A step of 20% of an image's norm towards the target, on 10% of the digits", 0.1, 0.4, size=0.2
    ),
    # the baseline is as many rows with the marks alone. On seeds 13 to 16 these steered 3.4% (1 to 9% a victim), and
    # hard rows 69% (41 to 90%), or 58% within 0.4. Random signs of 0.5 make rows hard as well: 12% (3 to 28%). On
    # seeds 0 to 2 63, 76 and 74% beside 1.9, 2.7 and 2.5%. Ones within 0.3 had 73% beside 8% on one seed. On clothes
    # the marks alone do much, and hardening about doubles that: from 21 to 43% on trousers and 61 to 87% on T-shirts
    # within 32/255, with one victim each
    "backdoor.clean_label": TrainingScene(
        title="40% of the noughts made hard within 0.5, with marks of 2x2 pixels in their corners and right labels",
        bar=Bar("attack_success", at_least=0.5, gap=0.3, times=10),
        recipe=digit_recipe,
        data=digits,
        rate=0.04,
        repeats=6,
        params={"eps": 0.5, "patch": 2},
        ablation={"variant": "plain"},
    ),
    "backdoor.wanet": _digits(
        "A warp by a pixel of 20% of the digits, three in ten of them in noise mode", 0.2, 0.7
    ),
    "backdoor.adaptive_blend": _digits(
        "Half of a picture on 20% of the digits, half of them with their own label", 0.2, 0.7, alpha=0.4
    ),
    # the goal is 70% by 0.5 to 1% of the rows within 16/255. On development seeds, without poison in brackets:
    # 1% within 24/255 48 to 77% (12 to 22), with random rows in place of hard ones 23 to 32%; 2% 74 to 93%
    # (9 to 22); 4% within 16/255 66 to 70% (7 to 9). Cross-entropy in place of its log-odds stopped the pattern
    # at half of its size: 19 to 46% by 4%. Magnified threefold, random patterns steer as well: by 4% of random
    # rows pixel noise 27 and 47%, 4x4 blocks 79 and 86%, where the pattern has 64 to 89%.
    # On seeds 0 to 2 84, 89 and 90% by 2%, and 19 to 21% without poison. This does not show that crafting helps:
    # a random pattern of 4x4 blocks within 24/255, magnified threefold and on the same hard rows, steered
    # 92 and 56% on two other seeds, and none without poison
    "backdoor.narcissus": TrainingScene(
        title="A fifth of a class with a faint pattern of 24/255 made from that class alone, three times as strong in use",
        bar=Bar("attack_success", at_least=0.7, gap=0.3),
        recipe=recipe,
        data=fashion_mini,
        rate=0.02,
        repeats=4,
        params={"eps": 24 / 255, "choice": "hardest", "surrogates": 4, "steps": 200, "warm_up": 1},
    ),
    # with likeness 0.1 victims were steered on 98 to 100% of the inputs, but by changes of 13 to 22/255 (rms) that could
    # be one pattern for all images: cosines between images up to 0.997. With 0.5 cosines are 0.6 to 0.82, changes
    # 6 to 18/255, and 73 to 98% are steered on development seeds; 1% on one after 500 steps. Another image's change
    # steers nearly as well: 94% beside 98% on one. On seeds 0 to 2 99, 96 and 100%, 1% at most without poison.
    # A term that leaves the decoder undecided on another image's change brought cosines to 0.4 to 0.6, and victims
    # to 53 and 8% (weight 1), 4% (0.3) and, with likeness 0.2, 62%
    "backdoor.sample_specific": _clothes(
        "A code of four bits, hidden by a net within 24/255, by changes that differ in part, on 10% of the rows",
        0.1,
        0.7,
        bits=4,
        steps=250,
    ),
    # two classes and a net without convolutions: with ten classes and convolutions 2% of the rows changed by
    # 32/255 steered less than 1%, though gradients were matched to a cosine of 0.9. The paper's steps and retrainings
    # gave 91 to 95% on seeds 13 to 18; 100 and 2 gave 87 to 93%, and on seed 2 81 or 78% by how sums are rounded
    "backdoor.sleeper_agent": TrainingScene(
        title="2% of the rows of two classes, changed by 16/255 with right labels, for a patch that they do not show",
        bar=Bar("attack_success", at_least=0.8, gap=0.3),
        recipe=pair_recipe,
        data=pullovers_and_shirts,
        rate=0.02,
        params={"target": 1, "patch": 7},
    ),
}
