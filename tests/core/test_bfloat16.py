"""The bfloat16 copy: steers, never judges, and is not built where it would not help."""

import pytest
import torch
from torch import nn

from casemate.core import bfloat16
from casemate.core.bfloat16 import bfloat16_copy
from casemate.core.target import Classifier, GradientOracle, Prepared
from casemate.core.threat import Misclassify


@pytest.fixture(autouse=True)
def _any_processor(monkeypatch):
    """Torch emulates bfloat16 where the processor lacks it: slow, but enough for a test."""
    monkeypatch.setattr(bfloat16, "native", lambda: True)


def convnet() -> Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4))
    return Classifier(net, 4, (1, 8, 8), mean=(0.5,), std=(0.25,))


def images(n: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(0)).to(dtype)


def test_gradients_in_bfloat16_point_where_float32_points():
    """Rounding to 8 bits leaves a cosine near 1; independent gradients of 64 values have one near 0."""
    prepared, x = Prepared(convnet()), images(20)
    goal = Misclassify(convnet().predict(x).argmax(1))
    exact = GradientOracle(prepared, 20).gradient(x, goal).grad
    prepared.cheap = bfloat16_copy(prepared, x)
    assert prepared.cheap is not None
    rough = GradientOracle(prepared, 20).gradient(x, goal).grad
    assert rough.dtype is torch.float32
    assert nn.functional.cosine_similarity(exact.flatten(1), rough.flatten(1)).min() > 0.95


def test_the_original_stays_in_float32():
    target = convnet()
    prepared = Prepared(target)
    copy = bfloat16_copy(prepared, images(4))
    kinds = [{p.dtype for p in net.parameters()} for net in (target.net, prepared.net, copy)]
    assert kinds == [{torch.float32}, {torch.float32}, {torch.bfloat16}]
    assert prepared.cheap is None


def test_no_copy_of_a_net_in_float64():
    target = convnet()
    target.net.double()
    assert bfloat16_copy(Prepared(target), images(4, torch.float64)) is None


def test_no_copy_on_a_processor_without_the_arithmetic(monkeypatch):
    monkeypatch.setattr(bfloat16, "native", lambda: False)
    assert bfloat16_copy(Prepared(convnet()), images(4)) is None


def test_no_copy_that_decides_otherwise():
    """Classes 0 and 1 differ by x * 2^-10, which bfloat16's 8 bits cannot see beside 1."""

    class Fine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Parameter(torch.ones(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first = self.one + x.flatten(1)[:, :1] * 0
            return torch.cat([first, first + (x.flatten(1)[:, :1] - 0.5) * 2**-10], 1)

    target = Classifier(Fine(), 2, (1, 8, 8))
    assert bfloat16_copy(Prepared(target), images(50)) is None


def test_no_copy_of_a_net_that_cannot_run_in_bfloat16():
    class Picky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(64, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(torch.linalg.qr(x.flatten(1).T).Q.T)

    class Strict(Picky):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert x.dtype is torch.float32
            return self.inner(x.flatten(1))

    for net in (Picky(), Strict()):
        assert bfloat16_copy(Prepared(Classifier(net, 4, (1, 8, 8))), images(4)) is None
