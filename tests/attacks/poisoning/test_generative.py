"""The generative method: rewarded by the victim's loss, and seen by whoever looks at the loss of what comes in."""

from functools import partial

import pytest
import torch
from torch.nn import functional as F

from casemate.attacks.poisoning.generative import generative
from casemate.builtin.data import digits
from casemate.builtin.nets import small_mlp
from casemate.core.data import PoisonBudget, Samples
from casemate.core.errors import NotApplicable
from casemate.core.online import online
from casemate.core.recipe import Recipe
from casemate.core.target import Classifier
from casemate.core.workshop import Workshop
from casemate.ops.rng import generator
from casemate.ops.roc import auc

BUDGET = PoisonBudget(0.1)


def taught() -> tuple[Classifier, Workshop]:
    """A net that reads digits, and what somebody has who sees it learn further."""
    train, test = digits()
    plain = Recipe(partial(small_mlp, (1, 8, 8), 10), "mlp", epochs=20, batch=32, lr=3e-3)
    model = plain(train[:600], rng=generator(10))
    further = online(Recipe(plain.make, "further", epochs=3, batch=64, lr=1e-3), model)
    return model, Workshop(train[slice(600, None)], further, lambda count: [], test)


@pytest.mark.slow
def test_the_reward_of_later_steps_is_higher_and_the_poison_has_the_labels_that_follow() -> None:
    """The victim is the same at the start of each play, which has 33 steps here, so that turns of 11 compare."""
    _, made_in = taught()
    rewards: list[float] = []
    made = generative(
        made_in, BUDGET, steps=60, inner_steps=11, warm_up_steps=60, rng=generator(1),
        tick=lambda step, total, values: rewards.append(values["reward"]),
    )  # fmt: skip
    assert sum(rewards[-6:]) > 1.5 * sum(rewards[:6])
    assert torch.equal(made.y, (made_in.clean.y[made.rows] + 1) % 10)


@pytest.mark.slow
def test_closeness_keeps_the_poison_near_what_it_was_made_of() -> None:
    _, made_in = taught()
    far = [
        (made.x - made_in.clean.x[made.rows]).flatten(1).norm(dim=1).mean()
        for closeness in (0.0, 10.0)
        for made in [
            generative(made_in, BUDGET, steps=30, warm_up_steps=150, closeness=closeness, rng=generator(1))
        ]
    ]
    assert far[1] < far[0] - 0.1


@pytest.mark.slow
def test_the_loss_of_what_comes_in_gives_the_poison_away() -> None:
    """The paper's answer: the model that was there before has a loss on each row that comes in. The area
    under the ROC of a threshold on it, poison against clean rows, was 0.92 to 0.94 for the scene's poison on development
    seeds, where the goal was 0.9. With so short a training as here it must be clear of chance, and of 0.7."""
    model, made_in = taught()
    made = generative(made_in, BUDGET, steps=60, warm_up_steps=150, rng=generator(1))
    keep = torch.ones(len(made_in.clean), dtype=torch.bool)
    keep[made.rows] = False
    rest = made_in.clean[keep]
    dirty, fair = (
        F.cross_entropy(model.predict(rows.x), rows.y, reduction="none").numpy()
        for rows in (Samples(made.x, made.y, 10), rest)
    )
    assert auc(dirty, fair).low > 0.7


def test_what_it_cannot_do_is_refused() -> None:
    flat = Samples(torch.rand(20, 7, generator=generator(0)), torch.arange(20) % 2, 2)
    with pytest.raises(NotApplicable, match="multiples of 4"):
        generative(
            Workshop(flat, Recipe(partial(small_mlp, (7,), 2), "m"), lambda n: []), BUDGET, rng=generator(0)
        )
    train, _ = digits()
    with pytest.raises(NotApplicable, match="offset of 10"):
        generative(Workshop(train, Recipe(partial(small_mlp, (1, 8, 8), 10), "m"), lambda n: []), BUDGET,
                   offset=10, rng=generator(0))  # fmt: skip
