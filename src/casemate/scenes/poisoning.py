"""Scenes of poisoning: victims trained from scratch on the built-in images."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from casemate.builtin.data import digits, fashion_mini
from casemate.builtin.target import recipe
from casemate.core.data import Samples
from casemate.core.recipe import Recipe
from casemate.scenes.backdoors import digit_recipe
from casemate.scenes.scene import Bar, DialScene, History, Scene, TrainingScene


def digit_pair(first: int, second: int) -> tuple[Samples, Samples]:
    """Take two digits (1x8x8) out of all: 110 training images, and about 250 others."""
    train, test = digits()
    x, y = torch.cat([train.x, test.x]), torch.cat([train.y, test.y])
    of = (y == first) | (y == second)
    pair = Samples(x[of], (y[of] == second).long(), 2, (str(first), str(second)))
    return pair[slice(0, 110)], pair[slice(110, None)]


def few_digits() -> tuple[Samples, Samples]:
    """Take all ten digits (1x8x8): 600 training images and about 1,200 others."""
    train, test = digits()
    every = Samples(torch.cat([train.x, test.x]), torch.cat([train.y, test.y]), 10, train.names)
    return every[slice(0, 600)], every[slice(600, None)]


def linear(values: int, classes: int) -> nn.Sequential:
    """Build softmax regression."""
    return nn.Sequential(nn.Flatten(), nn.Linear(values, classes))


def softmax_regression(classes: int = 2) -> Recipe:
    """Give the recipe of softmax regression on digits, trained until its loss no longer falls much."""
    net = partial(linear, 64, classes)
    return Recipe(net, f"softmax 64 {classes}", epochs=300, batch=128, lr=0.01)


def decayed_regression() -> Recipe:
    """Give the recipe of softmax regression on two digits whose weights decay, which random labels hurt little."""
    net = partial(linear, 64, 2)
    return Recipe(net, "softmax 64 2, decay", epochs=60, batch=64, lr=0.01, weight_decay=1.0)


def ten_digit_regression() -> Recipe:
    """Give the recipe of softmax regression on ten digits."""
    return Recipe(partial(linear, 64, 10), "softmax 64 10, 60 epochs", epochs=60, batch=64, lr=0.01)


def all_digits() -> tuple[Samples, Samples]:
    """Take all ten digits (1x8x8): 1,240 images to train on and about 550 others."""
    train, test = digits()
    every = Samples(torch.cat([train.x, test.x]), torch.cat([train.y, test.y]), 10, train.names)
    return every[slice(0, 1240)], every[slice(1240, None)]


def read_before() -> Recipe:
    """Give the recipe by which an online victim has learnt to read digits."""
    return replace(digit_recipe(), epochs=25)


def fifty_steps() -> Recipe:
    """Give the recipe by which that victim goes on: 50 batches of 640 images."""
    return replace(digit_recipe(), epochs=5, batch=64, lr=1e-3)


PAIRS: tuple[Callable[[], tuple[Samples, Samples]], ...] = (
    partial(digit_pair, 1, 7), partial(digit_pair, 3, 8), partial(digit_pair, 4, 9),
)  # fmt: skip

SCENES: dict[str, Scene] = {
    "poisoning.label_flip": TrainingScene(
        title="Wrong labels on 80% of the training rows cost more than leaving those rows out",
        bar=Bar("accuracy_drop", at_least=0.1, gap=0.05),
        recipe=recipe,
        data=fashion_mini,
        rate=0.8,
    ),
    # The goal, 8 points, is missed on seed 0: 7.4 points, beside 11.0 and 8.7 on seeds 1 and 2; random labels cost
    # 0.6 to 1.9. A closer copy of the victim's training in the head does not help: gradients through twice and five
    # times the steps, or through steps of Adam as the victim takes them, made poison that did less. What limits it
    # is that 125 validation rows stand for all others: their error rises by 12 points where that of others rises
    # by 8, also with capped losses or 100 rows more. One label for all six, of each class in turn and the
    # better kept, costs a point more than labels at random
    "poisoning.back_gradient": TrainingScene(
        title="Six of 106 training rows, against softmax regression on three pairs of digits",
        bar=Bar("accuracy_drop", at_least=0.08, times=1.5, gap=0.03),
        recipe=softmax_regression,
        data=PAIRS[0],
        more=PAIRS[1:],
        rate=6 / 106,
        train_rows=106,
        repeats=4,
        params={
            "inner_steps": 200,
            "rate": 0.3,
            "outer_steps": 5,
            "refine_steps": 15,
            "together": 2,
            "attempts": 2,
            "labels": "one for all",
        },
    ),
    # by 0.1 nothing was lost, by 0.2 a good third; on 28x28 grey clothing a model trained on 2,000 rows moved by
    # 8/255, which is what the paper allows on colour pictures, erred no more than one trained on clean rows
    "poisoning.error_maximising": TrainingScene(
        title="All digits moved by 0.25 towards the next class, labels kept; 8/255 is too little on such pictures",
        bar=Bar("accuracy_drop", at_least=0.4, gap=0.3),
        recipe=digit_recipe,
        data=digits,
        rate=1.0,
        params={"eps": 0.25, "steps": 30},
    ),
    # how much is lost differs from one victim to another: 21 points on average of three in one trial, 44 in another, and
    # of three victims the interval reaches from 3 to 38 points; hence six
    "poisoning.error_minimising": TrainingScene(
        title="All digits moved by 0.25 to where a model in training has least loss, labels kept",
        bar=Bar("accuracy_drop", at_least=0.1, gap=0.08),
        recipe=digit_recipe,
        data=digits,
        rate=1.0,
        repeats=6,
        params={"eps": 0.25},
    ),
    # The paper's poisons may leave the box and are strong at 3%. In the box 30% cost 29.7, 26.1 and 29.9 points on
    # seeds 0 to 2, beside 4.0, 4.0 and 4.7 by random labels. Most of that is no merit of the method: its poison ends
    # with nearly one label (175 of 180 rows on development seed 20), and random rows all called one class cost 16 to
    # 22 points of three victims on seeds 20 and 21, or 21 to 25 if none had that class before (`label_flip` with
    # labels "one for all", one victim each on seeds 20 to 22). The attack cost 30 and 19 there, and its starts alone,
    # not moved, 15 and 12, when starts could still be taken twice. From clean rows with wrong labels at random the
    # gradient stayed and 30% cost 8; 10% cost 5 and 7 on seeds 10 and 11, beside 1 and 3 by random labels, and 3%
    # one point, beside 0.5
    "poisoning.gradient_canceling": TrainingScene(
        title="30% of the training rows, against softmax regression on ten digits; few rows in the box do little",
        bar=Bar("accuracy_drop", at_least=0.15, times=2, gap=0.1),
        recipe=ten_digit_regression,
        data=few_digits,
        rate=0.3,
        repeats=10,
        params={"rate": 0.5},
    ),
    # The goal, 15 points and twice what random labels do, is missed. The generator makes all of its poison look like
    # one class, which then is outnumbered and lost: 6 to 9 points on development seeds 10 to 12, beside 0.4 to 4.7.
    # Ten percent of the rows outnumber no second class. A victim of plain SGD withstands it (rates of 0.1 and 0.2 on
    # seed 10: 0 to 1.4 points, at 0.1 after 80 steps of the generator only, at 0.2 without a victim that never learnt),
    # and random labels as well (none). Of three victims the intervals are too wide to tell: 0 to 17 points on one
    # seed, beside 2; hence six
    "poisoning.generative": TrainingScene(
        title="10% of the digits from which a net that reads 98% goes on learning for 50 steps",
        bar=Bar("accuracy_drop", at_least=0.05, times=2, gap=0.03),
        recipe=fifty_steps,
        data=all_digits,
        rate=0.1,
        train_rows=640,
        repeats=6,
        history=History(600, read_before),
    ),
    # It did no more than random labels on development seed 10: 1.1 points looking one step ahead, 2.5 looking
    # three, beside 3.2; on a victim of plain SGD at rates of 0.1 and 0.2 it did 0 to 1.4 points, beside none. Single
    # images moved by themselves stay near their own class, so that no class is outnumbered, as by the generator.
    # The bar is what a baseline for the method above would have to show; it is missed: on seeds 0 to 2 1.1, 2.2 and 2.5
    # points, beside 1.3, 1.0 and 0.6
    "poisoning.direct_gradient": TrainingScene(
        title="10% of the digits from which a net that reads 98% goes on learning for 50 steps",
        bar=Bar("accuracy_drop", at_least=0.02, gap=0.01),
        recipe=fifty_steps,
        data=all_digits,
        rate=0.1,
        train_rows=640,
        history=History(600, read_before),
    ),
    # at alpha 0.3 a distance detector finds the samples as well as random wrong labels (AUC 0.99), which cost such
    # a victim 1 to 3 points only; where a net is certain of the class from the start (no decay and fours among
    # nines, or 28x28 sneakers among boots) nothing was lost on development seed 10
    "poisoning.pgan": DialScene(
        title="20% of the threes and fives from which softmax regression learns, made to be called threes",
        bar=Bar("error", at_least=0.04, times=2, gap=0.02),
        recipe=decayed_regression,
        data=partial(digit_pair, 3, 5),
        rate=0.2,
        dial="alpha",
        at=0.3,
        harmless=1.0,
        sweep=(0.9, 0.5, 0.1),
        repeats=5,
        params={"steps": 200},
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
