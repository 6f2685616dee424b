"""Gradients through training agree with finite differences, whichever way they are taken."""

import pytest
import torch
from torch import nn

from casemate.core.hypergradients import Training, hypergradient
from casemate.core.learner import descend, learner, slope
from casemate.ops.rng import generator


def training(rate: float = 0.1, steps: int = 12) -> tuple[Training, torch.Tensor]:
    draw = generator(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    of = learner(net, torch.float64)
    x = torch.rand(8, 3, generator=draw, dtype=torch.float64)
    free = torch.rand(2, 3, generator=draw, dtype=torch.float64)
    return Training(of, of.start(), x, torch.arange(8) % 2, torch.tensor([1, 0]), rate, steps), free


def aim_of(made: Training):
    x = torch.rand(5, 3, generator=generator(3), dtype=torch.float64)
    return lambda weights: made.learner.loss(weights, x, torch.tensor([0, 1, 1, 0, 1]))


@pytest.mark.parametrize("mode", ["reverse", "unrolled"])
@pytest.mark.parametrize(("rate", "steps"), [(0.1, 12), (0.5, 12), (0.1, 60), (0.1, 0)])
def test_gradients_are_those_of_finite_differences(mode, rate, steps):
    """Central differences of step 1e-5 err by about 1e-10, in a function of size 1."""
    made, free = training(rate, steps)
    aim = aim_of(made)
    if steps == 0:
        assert hypergradient(made, free, lambda w: aim(w) + 0 * w[0].sum(), "reverse")[1].eq(0).all()
        return
    value, found = hypergradient(made, free, aim, mode)
    wanted = torch.zeros_like(free)
    for i in range(free.numel()):
        step = torch.zeros(free.numel(), dtype=torch.float64)
        step[i] = 1e-5
        up, down = (float(aim(made.run(free + s * step.view_as(free)))) for s in (1, -1))
        wanted.view(-1)[i] = (up - down) / 2e-5
    assert abs(float(value) - float(aim(made.run(free)))) < 1e-12
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-9)
    assert not found.requires_grad


def test_descent_is_that_of_the_formula():
    """Softmax regression on one row: the gradient of weight k is (p_k - [y = k]) x."""
    net = nn.Linear(2, 2, bias=False)
    of = learner(net, torch.float64)
    x, y = torch.tensor([[1.0, 2.0]], dtype=torch.float64), torch.tensor([1])
    start = (torch.tensor([[0.3, -0.1], [0.2, 0.4]], dtype=torch.float64),)
    off = (start[0] @ x[0]).softmax(0) - torch.tensor([0.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(slope(of, start, x, y)[0], off[:, None] * x)
    torch.testing.assert_close(descend(of, start, x, y, 0.5, 1)[0], start[0] - 0.5 * off[:, None] * x)
    assert descend(of, start, x, y, 0.5, 0)[0] is start[0]
