"""Gradients by weights on a linear net, where they are outer products."""

import torch
from torch import Tensor, nn

from casemate.core.alignment import Pull, align, steepest_rows, turn
from casemate.core.learner import learner, slope, trainable, weight_gradient
from casemate.core.target import Classifier
from casemate.core.tick import ignore
from casemate.ops.rng import generator


def linear() -> Classifier:
    net = nn.Linear(3, 2)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1.0, -1.0, 0.5], [0.0, 1.0, -0.5]]))
        net.bias.zero_()
    return Classifier(net, 2, (3,))


def by_hand(model: Classifier, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of (p - e_y) x^T and of (p - e_y), p the softmax."""
    off = model.logits(x).softmax(1) - nn.functional.one_hot(y, 2)
    return off.T @ x / len(x), off.mean(0)


def test_the_gradient_of_a_linear_net_is_an_outer_product() -> None:
    model, x, y = trainable(linear()), torch.rand(4, 3, generator=generator(0)), torch.tensor([0, 1, 1, 0])
    for found, wanted in zip(weight_gradient(model, x, y), by_hand(model, x, y), strict=True):
        torch.testing.assert_close(found, wanted)


def test_both_ways_to_differentiate_by_weights_agree_and_idle_weights_have_gradient_zero() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = linear().net, nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    x, y = torch.rand(4, 3, generator=generator(0)), torch.tensor([0, 1, 1, 0])
    own = weight_gradient(trainable(Classifier(Idle(), 2, (3,))), x, y)
    of = learner(Idle())
    given = slope(of, of.start(), x, y)
    for one, other in zip(own, given, strict=True):
        torch.testing.assert_close(one, other)
    assert [bool(g.any()) for g in given] == [True, True, False, False]


def test_misalignment_is_nought_along_two_against_and_one_across() -> None:
    one, across = (torch.tensor([1.0, 0.0]), torch.tensor([2.0])), (torch.tensor([0.0, 3.0]), torch.zeros(1))
    for other, wanted in ((one, 0.0), (tuple(-3 * g for g in one), 2.0), (across, 1.0)):
        assert abs(turn(one, other)[0] - wanted) < 1e-6
    assert turn(one, (torch.zeros(2), torch.zeros(1)))[0] == 1


def test_rows_with_large_gradients_come_first() -> None:
    """The squared size is |p - e_y|^2 (|x|^2 + 1), worked out row by row."""
    model, x = trainable(linear()), torch.rand(6, 3, generator=generator(1))
    y = torch.tensor([0, 1, 0, 1, 0, 1])
    off = (model.logits(x).softmax(1) - nn.functional.one_hot(y, 2)).square().sum(1)
    wanted = (off * (x.square().sum(1) + 1)).argsort(descending=True)
    assert torch.equal(steepest_rows(model, x, y, 4), wanted[:4])
    assert len(steepest_rows(model, x[:0], y[:0], 4)) == 0


def test_alignment_is_as_good_as_the_best_of_a_grid() -> None:
    """One row of three values within 0.2 of its base: 21^3 points are tried by brute force."""
    model, aim = trainable(linear()), torch.tensor([[0.9, 0.1, 0.4]])
    wanted = weight_gradient(model, aim, torch.tensor([1]))
    base, y = torch.full((1, 3), 0.5), torch.tensor([1])
    ticks = torch.linspace(-0.2, 0.2, 21)
    grid = base + torch.cartesian_prod(ticks, ticks, ticks)
    least = min(turn(weight_gradient(model, z[None], y), wanted)[0] for z in grid)
    pulls = [Pull(model, wanted)]
    x, found = align(lambda i, x: pulls, base, y, 0.2, step=0.1, steps=100, rng=generator(0), tick=ignore)
    assert found <= least + 1e-3
    assert float((x - base).abs().max()) <= 0.2 + 1e-6


def test_the_best_rows_are_those_since_the_pulls_last_changed() -> None:
    """The pull turns round at the last step: what was best before must not come back."""
    model, aim = trainable(linear()), torch.tensor([[0.9, 0.1, 0.4]])
    wanted = weight_gradient(model, aim, torch.tensor([1]))
    pulls = [Pull(model, wanted)]
    turned = [Pull(model, tuple(-g for g in wanted))]
    _, found = align(
        lambda i, x: pulls if i < 10 else turned, torch.full((1, 3), 0.5), torch.tensor([1]), 0.2,
        step=0.1, steps=10, rng=generator(0), tick=ignore,
    )  # fmt: skip
    assert found > 1


def test_the_turn_is_the_derivative_of_the_misalignment() -> None:
    one, other = (
        [torch.randn(s, generator=generator(i), dtype=torch.float64) for s in ((2, 3), (3,))]
        for i in range(2)
    )
    free = [u.clone().requires_grad_() for u in one]
    whole = [torch.cat([u.flatten() for u in each]) for each in (free, other)]
    off = 1 - nn.functional.cosine_similarity(*whole, dim=0)
    value, back = turn(one, other)
    assert abs(value - off.item()) < 1e-12
    torch.testing.assert_close(back, torch.autograd.grad(off, free))
    nothing = [torch.zeros_like(u) for u in one]
    for pair in ((nothing, other), (one, nothing)):
        value, back = turn(*pair)
        assert value == 1
        assert not any(b.any() for b in back)
