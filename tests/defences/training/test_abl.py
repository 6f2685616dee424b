"""Anti-backdoor learning: the floor, what is isolated, the climb, and a backdoor that is not learnt."""

import math

import pytest
import torch
from torch import Tensor, nn

from casemate.core.data import Samples
from casemate.core.errors import UsageError
from casemate.core.recipe import Recipe
from casemate.defences.training.abl import Floored, Unlearnt, abl, fastest
from casemate.ops.rng import generator


class Fixed(nn.Module):
    """Logits (a, 0): probability of class 0 is sigmoid(a)."""

    def __init__(self, a: float) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.a.expand(len(x)), torch.zeros(len(x))], 1)


def loss(net: nn.Module, x: Tensor, y: Tensor, /, *, rng: torch.Generator) -> Tensor:
    return nn.functional.cross_entropy(net(x), y)


def test_rows_below_the_floor_climb_while_the_others_descend() -> None:
    """Logits (a, 0) at a = 1 for labels 0 and 1: losses log(1 + 1/e) = 0.31 and 1.31, slopes -0.27 and 0.73."""
    net, q = Fixed(1.0), 1 / (1 + math.e)
    low, high = math.log(1 + 1 / math.e), 1 + math.log(1 + 1 / math.e)
    for gamma, value, slope in (
        (0.3, low + high, 1 - 2 * q),
        (0.5, high - low, 1.0),
        (2.0, -low - high, 2 * q - 1),
    ):
        found = Floored(gamma)(net, torch.zeros(2, 1), torch.tensor([0, 1]), rng=generator(0))
        assert float(found.detach()) == pytest.approx(value / 2)
        (grad,) = torch.autograd.grad(found, net.a)
        assert float(grad) == pytest.approx(slope / 2)


def test_the_rows_with_the_lowest_losses_are_isolated() -> None:
    """Logits (x, -x) for label 0: the larger x, the lower the loss."""
    net = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1.0], [-1.0]]))
    x = torch.randperm(300, generator=generator(0)).float()[:, None] / 300
    found = fastest(net, Samples(x, torch.zeros(300, dtype=torch.int64), 2), 0.02)
    assert sorted((x[found] * 300).round().flatten().tolist()) == [294, 295, 296, 297, 298, 299]


def test_unlearning_climbs_on_the_isolated_rows_up_to_a_bound() -> None:
    """Batch of class 1, isolated rows of class 0: log(1 + e^a) - log(P(1) / P(0)) = log(1 + e^a) + a.

    Its slope is sigmoid(a) + 1, also where class 0 is certain; where -a is above 3 log 2, it is sigmoid(a).
    """
    apart = Samples(torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64), 2)
    for a, slope in ((0.3, 1 + 1 / (1 + math.exp(-0.3))), (40.0, 2.0), (-3.0, 1 / (1 + math.exp(3)))):
        net = Fixed(a)
        found = Unlearnt(loss, apart)(
            net, torch.zeros(5, 1), torch.ones(5, dtype=torch.int64), rng=generator(0)
        )
        (grad,) = torch.autograd.grad(found, net.a)
        assert float(grad) == pytest.approx(slope, rel=1e-5)


def marked(n: int = 400) -> tuple[Samples, Tensor]:
    """Sixteen noisy values; class 1 has a higher mean. A tenth of class 0 has a mark and label 1."""
    rng = generator(0)
    y = torch.arange(n) % 2
    x = torch.randn(n, 16, generator=rng) + 0.4 * y[:, None]
    x[:, 0] = 0.0
    rows = (y == 0).nonzero().flatten()[:20]
    x[rows, 0], y[rows] = 30.0, 1
    return Samples(x, y, 2), rows


def build() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 2))


def test_a_mark_that_the_plain_training_learns_is_not_learnt() -> None:
    data, rows = marked()
    how = Recipe(build, "small", epochs=6, batch=32, lr=0.01)
    test = torch.randn(500, 16, generator=generator(1))
    test[:, 0] = 30.0
    plain = how(data, rng=generator(2))
    model = abl(how, isolated=0.05, early=2, unlearning=5, lr=0.003)(data, rng=generator(2))
    assert (plain.predict(test).argmax(1) == 1).float().mean() > 0.95
    assert (model.predict(test).argmax(1) == 1).float().mean() < 0.3
    clean = torch.ones(len(data), dtype=torch.bool)
    clean[rows] = False
    right = (model.predict(data.x[clean]).argmax(1) == data.y[clean]).float().mean()
    assert right > 0.7


def test_trainings_in_stages_are_refused() -> None:
    how = Recipe(build, "small")
    with pytest.raises(UsageError, match="one stage"):
        abl(abl(how))
