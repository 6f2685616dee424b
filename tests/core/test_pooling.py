"""Pooling before a rectifier changes neither values nor gradients nor names."""

import copy
from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

from casemate.core.pooling import pool_first


def _net() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(3, stride=2, padding=1))
        head = OrderedDict(conv=nn.Conv2d(4, 5, 3), relu=nn.ReLU(), pool=nn.MaxPool2d(2, ceil_mode=True))
        return nn.Sequential(body, nn.Sequential(head), nn.Flatten(), nn.Linear(30, 4)).requires_grad_(False)


def _run(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    z = x.clone().requires_grad_()
    out = net(z)
    (grad,) = torch.autograd.grad(out[:, 0].sum(), z)
    return out.detach(), grad


@pytest.mark.parametrize("ties", [False, True])
def test_values_and_gradients_are_bit_equal_also_where_values_tie(ties: bool) -> None:
    x = torch.rand(6, 3, 17, 13, generator=torch.Generator().manual_seed(1))
    x = (x * 3).round() / 3 if ties else x
    net = _net()
    quick = pool_first(copy.deepcopy(net))
    assert [type(m) for m in quick[0]] == [nn.Conv2d, nn.MaxPool2d, nn.ReLU]
    for ours, theirs in zip(_run(quick, x), _run(net, x), strict=True):
        assert torch.equal(ours, theirs)


def test_layers_keep_their_names() -> None:
    net = _net()
    quick = pool_first(copy.deepcopy(net))
    assert {name: type(m) for name, m in quick.named_modules()} == {
        name: type(m) for name, m in net.named_modules()
    }
    assert quick.state_dict().keys() == net.state_dict().keys()


class Branching(nn.Module):
    """Uses what stands between two layers, so their order is its own affair."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2))

    def forward(self, x: Tensor) -> Tensor:
        out = self.features[1](self.features[0](x))
        return self.features[2](out).flatten(1) + out.mean()


def test_nets_with_a_forward_of_their_own_stay_as_they_are() -> None:
    quick = pool_first(Branching())
    assert [type(m) for m in quick.features] == [nn.Conv2d, nn.ReLU, nn.MaxPool2d]  # type: ignore[union-attr]


def test_layers_that_someone_watches_or_uses_twice_stay_as_they_are() -> None:
    watched = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2))
    watched[0].register_forward_hook(lambda module, given, out: None)
    relu = nn.ReLU()
    twice = nn.Sequential(relu, nn.MaxPool2d(2), nn.Conv2d(1, 1, 1), relu, nn.MaxPool2d(2))
    for net in (watched, twice):
        before = list(net)
        assert list(pool_first(net)) == before
