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
    return Recipe(net, f"softmax 64 {classes}", epochs=600, batch=128, lr=0.01)


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
    # 10.7, 11.9 and 9.6 points on seeds 0 to 2. The victim must have learnt for long: in a simulation of this scene
    # on development seeds 13 to 24 random labels cost it 2.9 points and this poison 10.4 (9.3 to 12 by seed), where
    # half as many steps leave its clean error a little higher, and random labels cost 1.5 and such poison 8; after
    # 1,000 steps they cost 3.9 and 11.5. Of these 600 was taken because the bar then held on all twelve seeds, and on
    # eleven after 1,000. On the same seeds, measuring the loss on the training rows as well gained half a point; six
    # points at once did as much as two by two. Noise on the rows that it is measured on made the poison weaker (by
    # 0.15: 4 points), and losses that count errors alike, two first nets at once or four attempts did nothing. Rows
    # that the adversary has not seen lose 10 points where those it has lose 14
    "poisoning.back_gradient": TrainingScene(
        title="Six of 106 training rows, against softmax regression on three pairs of digits",
        bar=Bar("accuracy_drop", at_least=0.08, times=1.5, gap=0.03),
        recipe=softmax_regression,
        data=PAIRS[0],
        more=PAIRS[1:],
        rate=6 / 106,
        train_rows=106,
        repeats=6,
        params={
            "inner_steps": 300,
            "rate": 0.5,
            "outer_steps": 5,
            "refine_steps": 10,
            "together": 6,
            "attempts": 2,
            "labels": "one for all",
            "measured": "all known",
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
    # 11.2, 7.1 and 7.4 points on seeds 0 to 2, beside 1.9, 1.3 and 0.6 by random labels. Most of this is no merit of
    # the gradient, and the bar does not ask for one: the label alone, its rows not moved, cost 7.5, 4.9 and 4.6 there,
    # which is `label_flip` with labels "one for all". On development seeds 13 and 14 it cost 7.2 and 5.6, and 10.0 and
    # 9.3 with the gradient, beside 1.7 and 2.3 by random labels; no single gain over the flood is clear of its
    # interval. With labels that follow each row's own the gradient did 5.8 and 3.4 points there, and moved a quarter
    # to a half of the images to where the model reads one class. One move each in the first 11 of the 50 steps, while
    # the learning rate still rises, did no more than random labels: what helps is to go on moving each image in every
    # epoch. Images of one class that are all called the next cost 10 to 13 points, and 7 to 8 of them before they
    # moved; looking two or three steps ahead was no better than one, nor were ten rounds, 20 moves or moves of three
    # times the length
    "poisoning.direct_gradient": TrainingScene(
        title="10% of the digits, called one class, go to a net of 98% for 50 steps; most of the loss is the label's",
        bar=Bar("accuracy_drop", at_least=0.05, times=2, gap=0.03),
        recipe=fifty_steps,
        data=all_digits,
        rate=0.1,
        train_rows=640,
        repeats=6,
        history=History(600, read_before),
        params={"labels": "one for all"},
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
