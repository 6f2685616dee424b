"""Gradients of single rows by the weights, beside those of sets of one row."""

import pytest
import torch
from torch import Tensor, nn

from casemate.core import learner as module
from casemate.core.learner import Learner, learner, product, row_products, row_sizes, slope
from casemate.ops.rng import generator


class Recurrent(nn.Module):
    """A net with a recurrent layer, which cannot be batched over rows."""

    def __init__(self) -> None:
        super().__init__()
        self.walk, self.head = nn.GRU(4, 3, batch_first=True), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.walk(x)[0][:, -1])


class InPlace(nn.Module):
    """A net that writes into a tensor of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(20, 2)

    def forward(self, x: Tensor) -> Tensor:
        out = torch.zeros(len(x), 2, dtype=x.dtype)
        out[:] = self.head(x.flatten(1)).tanh()
        return out


class Branching(InPlace):
    """A net that looks at values."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.sum() > 0 else -x)


def plain() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(20, 3), nn.Tanh(), nn.Linear(3, 2))


NETS = {"plain": plain, "recurrent": Recurrent, "in place": InPlace, "branching": Branching}


def case(name: str) -> tuple[Learner, Tensor, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        of = learner(NETS[name](), torch.float64)
    return of, torch.rand(6, 5, 4, dtype=torch.float64, generator=generator(0)), torch.arange(6) % 2


@pytest.mark.parametrize("values", [1, 2**25])
@pytest.mark.parametrize("name", list(NETS))
def test_gradients_of_rows_are_those_of_sets_of_one(name, values, monkeypatch):
    """Whatever the net does inside, and however few gradients may be held at a time."""
    monkeypatch.setattr(module, "VALUES", values)
    monkeypatch.setattr(module, "AT_ONCE", 4)
    of, x, y = case(name)
    weights = of.start()
    along = tuple(torch.randn(w.shape, dtype=w.dtype, generator=generator(1)) for w in weights)
    each = [slope(of, weights, x[[i]], y[[i]]) for i in range(6)]
    sizes = torch.stack([product(g, g) for g in each])
    torch.testing.assert_close(row_sizes(of, weights, x, y), sizes)
    products = torch.stack([product(g, along) for g in each])
    torch.testing.assert_close(row_products(of, weights, x, y, along), products)
