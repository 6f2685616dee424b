"""The poisoning GAN: what its players lose in closed form, and what its dial does."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from casemate.attacks.poisoning.pgan import STEEPNESS, _objective, _Pupil, _told_apart, pgan
from casemate.core.data import Poison, PoisonBudget, Samples
from casemate.core.errors import NotApplicable
from casemate.core.recipe import Recipe
from casemate.core.workshop import Workshop
from casemate.ops.rng import generator
from casemate.scenes.poisoning import decayed_regression, digit_pair, linear

FEW = {"steps": 3, "imitation_steps": 3, "warm_up_steps": 2, "classifier_steps": 2}


def shop(recipe: Recipe | None = None, shape: tuple[int, ...] = (1, 4, 4), n: int = 40) -> Workshop:
    """Black pictures of class 0 and white ones of class 1, in turn."""
    y = torch.arange(n) % 2
    x = y.float().view(-1, *[1] * len(shape)).expand(n, *shape).contiguous()
    plain = Recipe(partial(linear, 16, 2), "linear", epochs=200, batch=40, lr=0.02)
    return Workshop(Samples(x, y, 2), recipe or plain, lambda count: [])


def no_net() -> nn.Module:
    raise AssertionError("a classifier was made")


def test_with_alpha_1_there_is_no_classifier_at_all() -> None:
    """W(C, G) has weight 0, so that a recipe that cannot train anything gives the very same samples."""
    made, same = (
        pgan(shop(recipe), PoisonBudget(0.2), alpha=1.0, **FEW, rng=generator(1))
        for recipe in (None, Recipe(no_net, "none"))
    )
    assert torch.equal(made.x, same.x)
    with pytest.raises(AssertionError, match="a classifier was made"):
        pgan(shop(Recipe(no_net, "none")), PoisonBudget(0.2), alpha=0.99, **FEW, rng=generator(1))


def test_all_samples_have_the_label_of_the_class_that_they_imitate() -> None:
    for target in (0, 1):
        made = pgan(shop(), PoisonBudget(0.2), target=target, **FEW, rng=generator(1))
        assert made.y.tolist() == [target] * 8
        assert bool(((made.x >= 0) & (made.x <= 1)).all())


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
def test_the_generator_follows_both_gradients_by_their_weights(alpha: float) -> None:
    """For one sample x, score w.x and logits V x with the label t, the objective a * log(1 + exp(-w.x)) -
    (1 - a) * CE(V x, t) has the gradient -a * sigmoid(-w.x) * w - (1 - a) * V^T (softmax(V x) - e_t)."""
    rng = generator(2)
    x, w, v = (torch.randn(*shape, generator=rng, dtype=torch.float64) for shape in ((3,), (3,), (2, 3)))
    x.requires_grad_()
    harm = nn.functional.cross_entropy((v @ x)[None], torch.tensor([0]))
    (grad,) = torch.autograd.grad(_objective((w @ x)[None], harm, alpha), x)
    with torch.no_grad():
        off = torch.softmax(v @ x, 0) - torch.tensor([1.0, 0.0])
        wanted = -alpha * torch.sigmoid(-(w @ x)) * w - (1 - alpha) * v.T @ off
    assert torch.allclose(grad, wanted)


def test_the_discriminator_loses_two_logistic_losses_and_its_squared_slope() -> None:
    """A linear discriminator of weights w has the gradient w everywhere, whose square is |w|^2 = 16 * 0.25 here.
    White pictures score 16 * 0.5 = 8 and black ones 0: log(1 + exp(-8)) for genuine white, log 2 for made black."""
    judge = nn.Sequential(nn.Flatten(), nn.Linear(16, 1, bias=False))
    nn.init.constant_(judge[1].weight, 0.5)
    told = _told_apart(judge, torch.ones(3, 1, 4, 4), torch.zeros(5, 1, 4, 4))
    assert float(told.detach()) == pytest.approx(
        math.log1p(math.exp(-8)) + math.log(2) + STEEPNESS * 4, rel=1e-5
    )


def test_a_classifier_that_has_learnt_the_samples_still_loses_where_they_contradict_clean_rows() -> None:
    """Samples are white, as class 1 is, and are called 0. With their share 0.2 they are a third of all that is
    white: 0.2 beside 0.8 / 2. The best answer there is 1/3 for class 0, a loss of log 3 on the samples, and
    grey pictures, which contradict nobody, would be learnt: their loss falls towards 0."""
    rows, labels = torch.arange(8), torch.zeros(8, dtype=torch.int64)
    known = shop()

    def lost(made: Tensor) -> float:
        rng = generator(3)
        pupil = _Pupil.fresh(known, Poison(rows, made[:8], labels), rng)
        for _ in range(3):
            pupil.learn(known.clean, made, 0, rng)
        return float(pupil.loss(made, 0).detach())

    corner = torch.zeros(640, 1, 4, 4)
    corner[:, :, :2] = 1
    assert lost(torch.ones(640, 1, 4, 4)) == pytest.approx(math.log(3), abs=0.15)
    assert lost(corner) < 0.35


@pytest.mark.slow
def test_the_dial_trades_looking_genuine_for_looking_like_the_other_class() -> None:
    """A model of clean rows, on which the samples' label is right for the class that they should look like."""
    train, _ = digit_pair(3, 5)
    known = Workshop(train, decayed_regression(), lambda count: [])
    model = known.recipe(train, rng=generator(4))
    wrong = []
    for alpha in (1.0, 0.1):
        made = pgan(
            known, PoisonBudget(0.2), alpha=alpha, steps=120, classifier_steps=10, imitation_steps=200,
            rng=generator(5),
        )  # fmt: skip
        wrong.append(float((model.predict(made.x).argmax(1) != 0).double().mean()))
    assert wrong[0] < 0.1
    assert wrong[1] > 0.5


def test_what_it_cannot_do_is_refused() -> None:
    with pytest.raises(NotApplicable, match="multiples of 4"):
        pgan(shop(shape=(7,)), PoisonBudget(0.2), rng=generator(0))
    with pytest.raises(NotApplicable, match="no row of class 2"):
        pgan(shop(), PoisonBudget(0.2), target=2, rng=generator(0))
