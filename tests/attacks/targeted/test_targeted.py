"""Targeted poisons on nets whose features are the inputs, where every step can be worked out."""

import pytest
import torch
from torch import Tensor, nn

from casemate.attacks.targeted.bullseye import bullseye
from casemate.attacks.targeted.convex_polytope import convex_polytope
from casemate.attacks.targeted.feature_collision import feature_collision
from casemate.attacks.targeted.influence import influence
from casemate.core.data import Samples
from casemate.core.heads import fit_head
from casemate.core.recipe import Recipe
from casemate.core.tampering import Tampering
from casemate.core.target import Classifier
from casemate.core.workshop import Aims, Workshop
from casemate.ops import logistic
from casemate.ops.rng import generator


def plain(classes: int, values: int) -> Classifier:
    """A linear classifier: its features are its inputs."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Classifier(nn.Sequential(nn.Flatten(), nn.Linear(values, classes)), classes, (values,))


def workshop(x: Tensor, y: list[int], classes: int = 2) -> Workshop:
    model = plain(classes, x.shape[1])
    make = lambda: nn.Sequential(nn.Flatten(), nn.Linear(x.shape[1], classes))  # noqa: E731
    return Workshop(
        Samples(x, torch.tensor(y), classes), Recipe(make, "linear"), lambda count: [model] * count
    )


def clouds(n: int = 30) -> tuple[Workshop, Aims]:
    """Two classes, 0 on the left and 1 on the right, and an aim of class 0 near the border."""
    rng = generator(5)
    y = torch.arange(n) % 2
    x = 0.35 + 0.3 * y[:, None].float() + 0.1 * torch.randn(n, 4, generator=rng)
    aim = torch.full((1, 4), 0.45)
    return workshop(x.clamp(0, 1), y.tolist()), Aims(aim, torch.tensor([0]), torch.tensor([1]))


def given(shop: Workshop, x: Tensor, rows: Tensor, aims: Aims) -> float:
    """Probability of the class wished for once the head is fitted to the changed rows."""
    changed = shop.clean.x.clone()
    changed[rows] = x
    weights = fit_head(changed[None], shop.clean.y[None], 2)
    return float(logistic.scores(aims.x[:1].double(), weights[0]).softmax(-1)[0, int(aims.wish[0])])


@pytest.mark.parametrize("inverse", ["exact", "cg", "ekfac"])
def test_influence_raises_the_probability_more_than_random_changes_of_the_same_rows(inverse) -> None:
    shop, aims = clouds()
    budget = Tampering(poisons=5, eps=0.05)
    poison = influence(shop, aims, budget, inverse=inverse, stop=1.0, steps=50, rng=generator(0))[0]
    reached = given(shop, poison.x, poison.rows, aims)
    base = shop.clean.x[poison.rows]
    random = [
        given(shop, (base + 0.05 * (torch.randint(2, base.shape, generator=generator(i)) * 2 - 1)).clamp(0, 1),
              poison.rows, aims)
        for i in range(20)
    ]  # fmt: skip
    # the Kronecker factors are a rough fit to thirty rows that a line divides
    assert reached > (max(random) if inverse != "ekfac" else sum(random) / len(random))
    assert reached > given(shop, base, poison.rows, aims)


def test_the_first_influence_step_follows_the_retrained_head() -> None:
    """One value of one row moved by h changes the aim's probability as brute-force retraining says.

    With a single step of length 0.001 each value goes up or down; the sign is compared with that of the
    difference of two heads that are fitted with the value moved by +-1e-3 (in float64, to 1e-9).
    """
    shop, aims = clouds()
    poison = influence(
        shop, aims, Tampering(poisons=1, eps=0.001), step=1.0, steps=1, stop=1.0, rng=generator(0)
    )[0]
    row = int(poison.rows[0])
    moved = poison.x[0] - shop.clean.x[row]
    for d in range(4):
        up, down = shop.clean.x[row].clone(), shop.clean.x[row].clone()
        up[d], down[d] = up[d] + 1e-3, down[d] - 1e-3
        slope = given(shop, up[None], poison.rows, aims) - given(shop, down[None], poison.rows, aims)
        if abs(slope) > 1e-6 and float(moved[d]) != 0:
            assert (slope > 0) == (float(moved[d]) > 0)
    assert bool(moved.ne(0).any())


def test_a_collision_without_likeness_reaches_the_aim_itself() -> None:
    """With features equal to inputs and no weight on the base, |x - t|^2 has its minimum at t."""
    shop = workshop(torch.tensor([[0.2, 0.2], [0.6, 0.7], [0.9, 0.1]]), [0, 1, 1])
    aims = Aims(torch.tensor([[0.4, 0.5]]), torch.tensor([0]), torch.tensor([1]))
    poison = feature_collision(
        shop, aims, Tampering(poisons=1, eps=1), beta=0.0, steps=300, rng=generator(0)
    )[0]
    assert poison.rows.tolist() == [1], "the nearest of the class wished for"
    assert float((poison.x - aims.x).norm()) < 0.1 * float((shop.clean.x[1] - aims.x[0]).norm())


def test_a_collision_stops_where_likeness_balances_it() -> None:
    """Minimum of |x - t|^2 / f + (w / f) |x - b|^2, for f = |b - t|^2: x = (t + w b) / (1 + w).

    Features and values are as many, so that w = beta = 0.5.
    """
    shop = workshop(torch.tensor([[0.2, 0.2], [0.6, 0.8]]), [0, 1])
    aims = Aims(torch.tensor([[0.3, 0.5]]), torch.tensor([0]), torch.tensor([1]))
    poison = feature_collision(
        shop, aims, Tampering(poisons=1, eps=1), beta=0.5, steps=400, rng=generator(0)
    )[0]
    torch.testing.assert_close(poison.x, (aims.x + 0.5 * shop.clean.x[1:]) / 1.5, atol=0.01, rtol=0)


@pytest.mark.parametrize(("bases", "row"), [(1, 0), (2, 1)])
def test_of_several_bases_the_one_that_comes_nearest_is_the_poison(bases, row) -> None:
    """The first is nearer to the aim but 0.07 out of reach; the second, a corner of its ball away, gets there."""
    shop = workshop(torch.tensor([[0.5, 0.77], [0.7, 0.7], [0.1, 0.1]]), [1, 1, 0])
    aims = Aims(torch.tensor([[0.5, 0.5]]), torch.tensor([0]), torch.tensor([1]))
    poison = feature_collision(
        shop, aims, Tampering(poisons=1, eps=0.2), beta=0.0, steps=200, bases=bases, rng=generator(0)
    )[0]
    assert poison.rows.tolist() == [row]
    assert float((poison.x - aims.x).norm()) == pytest.approx(0.07 * (row == 0), abs=0.02)


def test_a_watermark_shines_through_from_the_start() -> None:
    """One step of which the least objective is kept: the blended base, before anything moved."""
    shop = workshop(torch.tensor([[0.2, 0.2], [0.6, 0.8]]), [0, 1])
    aims = Aims(torch.tensor([[0.4, 0.4]]), torch.tensor([0]), torch.tensor([1]))
    poison = feature_collision(
        shop, aims, Tampering(poisons=1, eps=1), watermark=0.25, steps=1, rng=generator(0)
    )[0]
    torch.testing.assert_close(poison.x, torch.tensor([[0.55, 0.7]]))


@pytest.mark.parametrize("attack", [convex_polytope, bullseye])
def test_poisons_enclose_an_aim_that_they_can_reach(attack) -> None:
    """Rows at 0.2 and 0.6, each free to move by 0.3, can have any mean in between: the aim at 0.5.

    Their own mean is 0.4; bullseye has to move it, and the polytope already contains the aim.
    """
    shop = workshop(torch.tensor([[0.2], [0.6], [0.9]]), [1, 1, 0])
    aims = Aims(torch.tensor([[0.5]]), torch.tensor([0]), torch.tensor([1]))
    poison = attack(
        shop, aims, Tampering(poisons=2, eps=0.3), surrogates=1, dropout=0.0, steps=200, rng=generator(0)
    )[0]
    assert float(poison.x.min()) <= 0.51
    assert float(poison.x.max()) >= 0.49
    if attack is bullseye:
        assert float(poison.x.mean()) == pytest.approx(0.5, abs=0.02)
    else:
        assert torch.allclose(poison.x.sort(0).values, torch.tensor([[0.2], [0.6]]), atol=0.05)


def test_aims_crafted_together_get_the_poisons_they_get_alone() -> None:
    shop, one = clouds()
    two = Aims(torch.cat([one.x, one.x + 0.02]), one.y.repeat(2), one.wish.repeat(2))
    budget = Tampering(poisons=3, eps=0.05)
    for attack in (influence, feature_collision):
        together, alone = (attack(shop, a, budget, steps=20, rng=generator(0))[0] for a in (two, one))
        assert torch.equal(together.rows, alone.rows)
        torch.testing.assert_close(together.x, alone.x, atol=1e-4, rtol=0)
