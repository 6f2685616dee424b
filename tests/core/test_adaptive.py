import pytest
import torch
from torch import nn

from casemate.attacks.evasion.pgd import pgd
from casemate.core.adaptive import Hooks, bpda, eot, reparameterise, suspects, through
from casemate.core.errors import UsageError
from casemate.core.target import Classifier, GradientOracle, Prepared
from casemate.core.threat import Lp, Misclassify, WithLoss
from casemate.ops.rng import rows, seeded


class Round(nn.Module):
    """Rounds to halves; its gradient is zero wherever it has one."""

    def forward(self, x):
        return (2 * x).round() / 2


class Noisy(nn.Module):
    """Multiplies each row by a random number."""

    def forward(self, x):
        return x * torch.rand(len(x), 1)


class Two(nn.Module):
    """Logits (-s, s) for s = w (x - 1/2)."""

    def __init__(self, w=(1.0, 2.0)):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w))

    def forward(self, x):
        s = (x - 0.5) @ self.w
        return torch.stack([-s, s], 1)


def behind(layer):
    return Classifier(nn.Sequential(layer, Two()), 2, (2,))


X, Y = torch.tensor([[0.1, 0.4], [0.3, 0.2], [0.9, 0.8]]), torch.tensor([0, 0, 1])


def test_bpda_is_the_layer_forwards_and_the_other_backwards():
    """y = round(2x)/2 to the bit; with h(x) = 3x the gradient of sum(y) is 3 everywhere."""
    z = X.clone().requires_grad_()
    out = bpda(Round(), lambda x: 3 * x)(z)
    assert torch.equal(out, Round()(X))
    out.sum().backward()
    assert torch.equal(z.grad, torch.full_like(X, 3))


def test_bpda_by_identity_passes_the_gradient_on():
    z = X.clone().requires_grad_()
    (bpda(Round())(z) * torch.tensor([1.0, -2.0])).sum().backward()
    assert torch.equal(z.grad, torch.tensor([1.0, -2.0]).expand(3, 2))


def test_a_backward_of_another_shape_is_refused_by_name():
    with pytest.raises(UsageError, match="crops or rescales"):
        bpda(nn.Linear(2, 1))(X.clone().requires_grad_())


def test_a_backward_may_crop_as_the_layer_does():
    class Crop(nn.Module):
        def forward(self, x):
            return x[:, :1].round()

    z = X.clone().requires_grad_()
    bpda(Crop(), lambda x: x[:, :1])(z).sum().backward()
    assert torch.equal(z.grad, torch.tensor([[1.0, 0.0]]).expand(3, 2))


def test_eot_takes_the_mean_over_seeded_draws_and_counts_them():
    """The margin's gradient at row i is 2 w r_i (sign by class); its mean has the mean of the drawn r_i."""
    target = behind(Noisy())
    before = torch.random.get_rng_state()
    oracle = GradientOracle(eot(target, 5, seed=3), 3)
    found = oracle.gradient(X, Misclassify(Y), "margin")
    assert torch.equal(torch.random.get_rng_state(), before)
    same = eot(target, 5, seed=3)
    drawn = []
    for _ in range(5):
        with same.draws.draw():
            drawn.append(torch.rand(3, 1))
    sign = torch.tensor([[1.0], [1.0], [-1.0]])
    expected = sign * 2 * torch.stack(drawn).mean(0) * torch.tensor([1.0, 2.0])
    torch.testing.assert_close(found.grad, expected)
    assert oracle.ledger.queries.tolist() == [5, 5, 5]
    assert oracle.ledger.gradients.tolist() == [5, 5, 5]


def test_eot_shows_the_draw_farthest_from_the_goal():
    """An attack that stops by these logits stops only where all draws agree."""
    target = behind(Noisy())
    goal = Misclassify(Y)
    found = GradientOracle(eot(target, 8, seed=1), 3).gradient(X, goal, "margin")
    again = eot(target, 8, seed=1)
    each = torch.stack([goal.loss(logits, "margin") for logits in again.each(again.exact, X)])
    torch.testing.assert_close(goal.loss(found.logits, "margin"), each.amin(0))
    torch.testing.assert_close(found.loss, each.mean(0))


def test_eot_averages_the_graph_as_well():
    target = behind(Noisy())
    oracle = GradientOracle(eot(target, 4, seed=2), 3)
    z = X.clone().requires_grad_()
    (grad,) = torch.autograd.grad(oracle.graph(z)[:, 1].sum(), z)
    again = eot(target, 4, seed=2)
    z2 = X.clone().requires_grad_()
    mean = torch.stack(again.each(again.exact, z2)).mean(0)
    torch.testing.assert_close(grad, torch.autograd.grad(mean[:, 1].sum(), z2)[0])
    assert oracle.ledger.queries.tolist() == [4, 4, 4]
    assert oracle.ledger.gradients.tolist() == [4, 4, 4]


def test_eot_with_one_draw_on_a_fixed_target_changes_nothing():
    plain, hooked = Prepared(behind(nn.Identity())), eot(behind(nn.Identity()), 1)
    one, two = (GradientOracle(p, 3).gradient(X, Misclassify(Y)) for p in (plain, hooked))
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a, b)


def test_eot_needs_a_draw():
    with pytest.raises(UsageError, match="at least 1"):
        eot(behind(Noisy()), 0)


def test_gradients_go_round_a_layer_named_by_its_path():
    target = behind(Round())
    goal = Misclassify(Y)
    blind = GradientOracle(Prepared(target), 3).gradient(X, goal, "margin")
    seeing = GradientOracle(through(target, ["0"]), 3).gradient(X, goal, "margin")
    assert not blind.grad.any()
    assert torch.equal(seeing.logits, blind.logits)
    torch.testing.assert_close(seeing.grad, torch.tensor([[2.0, 4.0], [2.0, 4.0], [-2.0, -4.0]]))


def test_a_layer_that_stops_gradients_is_found_without_a_name():
    prepared = Prepared(behind(Round()))
    assert [(s.path, s.kind) for s in suspects(prepared, X)] == [("0", "blocks")]
    assert through(prepared, ("auto",), X).detour is not None
    assert through(behind(nn.ReLU()), ("auto",), X).detour is None


def test_a_layer_that_draws_is_found():
    found = suspects(Prepared(behind(Noisy())), X)
    assert ("0", "random") in [(s.path, s.kind) for s in found]


def test_going_round_leaves_the_answers_and_the_net_alone():
    target = behind(Round())
    prepared = Prepared(target)
    there = through(prepared, ["0"])
    assert torch.equal(there.quick(X), prepared.quick(X))
    assert prepared.detour is None
    assert type(prepared.net[0]) is Round
    assert there.detour[1].w is prepared.net[1].w


def test_a_pattern_without_a_layer_is_refused():
    with pytest.raises(UsageError, match="squeeze"):
        through(behind(Round()), ["squeeze"])


def test_every_attack_works_behind_a_hook():
    target = behind(Round())
    budget = Lp(norm="linf", eps=0.45)
    run = {"steps": 10, "loss": "margin", "rng": rows(0, 3)}
    stuck = pgd(GradientOracle(target, 3), X, Misclassify(Y), budget, **run)
    run["rng"] = rows(0, 3)
    found = pgd(GradientOracle(through(target), 3), X, Misclassify(Y), budget, **run)
    seen = [int((target.predict(x).argmax(1) != Y).sum()) for x in (stuck, found)]
    assert seen[0] <= seen[1]
    found = pgd(
        GradientOracle(through(target, ["0"]), 3), X, Misclassify(Y), budget, **{**run, "rng": rows(0, 3)}
    )
    assert (target.predict(found).argmax(1) != Y).all()


def test_a_target_without_any_graph_has_a_gradient_of_zero():
    class Closed(nn.Module):
        def forward(self, x):
            return Two()(x).detach()

    oracle = GradientOracle(Classifier(Closed(), 2, (2,)), 3)
    assert not oracle.gradient(X, Misclassify(Y)).grad.any()
    assert oracle.ledger.gradients.tolist() == [1, 1, 1]


def test_reparameterised_gradients_follow_the_chain():
    """For h(z) = (z, z^2) and s = w (h(z) - 1/2) the slope of s is w1 + 2 w2 z."""

    class Curve(nn.Module):
        def forward(self, z):
            return torch.cat([z, z**2], 1)

    target = Classifier(Two(), 2, (2,))
    z = torch.tensor([[0.2], [0.6]])
    there = reparameterise(target, Curve(), (1,))
    assert torch.equal(there.predict(z), target.predict(Curve()(z)))
    grad = GradientOracle(there, 2).gradient(z, Misclassify(torch.zeros(2, dtype=torch.int64)), "margin").grad
    torch.testing.assert_close(grad, 2 * (1 + 4 * z))


def test_a_loss_of_ones_own_is_climbed_and_does_not_decide():
    goal = WithLoss(Misclassify(Y), lambda goal, logits: -goal.loss(logits, "margin"))[torch.tensor([0, 2])]
    logits = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert goal.reached(logits).tolist() == [False, True]
    torch.testing.assert_close(goal.loss(logits, "ce"), torch.tensor([1.0, -1.0]))


def test_hooks_refuse_what_they_do_not_know():
    with pytest.raises(ValueError, match="ett"):
        Hooks(ett=3)
    with pytest.raises(ValueError, match="greater"):
        Hooks(eot=0)


def test_the_same_seed_draws_the_same():
    target = behind(Noisy())
    with seeded(5, torch.device("cpu")):
        one = GradientOracle(eot(target, 3, seed=9), 3).gradient(X, Misclassify(Y)).grad
    two = GradientOracle(eot(target, 3, seed=9), 3).gradient(X, Misclassify(Y)).grad
    assert torch.equal(one, two)
