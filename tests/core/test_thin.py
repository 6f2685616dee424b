"""The faster gradient of a first convolution is the same gradient."""

import copy

import pytest
import torch
from torch import nn

from casemate.core.target import Classifier, Prepared
from casemate.core.thin import ThinConv2d, thin


def _frozen(*args: int, **settings: object) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(*args, **settings).requires_grad_(False)  # type: ignore[arg-type]


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (2, 5)])
@pytest.mark.parametrize("padding", [(0, 0), (1, 2), (4, 6)])
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_are_those_of_the_convolution(
    channels: int, kernel: tuple[int, int], padding: tuple[int, int], bias: bool
) -> None:
    conv = _frozen(channels, 6, kernel, padding=padding, bias=bias)
    quick = thin(copy.deepcopy(conv))
    assert isinstance(quick, ThinConv2d)
    x = torch.rand(5, channels, 9, 7, generator=torch.Generator().manual_seed(1)).requires_grad_()
    expected = conv(x)
    upstream = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(quick(x), expected)
    (ours,) = torch.autograd.grad(quick(x), x, upstream)
    (theirs,) = torch.autograd.grad(conv(x), x, upstream)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "conv",
    [
        _frozen(3, 4, 3, stride=2),
        _frozen(3, 4, 3, dilation=2),
        _frozen(4, 4, 3, groups=2),
        _frozen(3, 4, 3, padding=1, padding_mode="reflect"),
        _frozen(3, 4, 3, padding="same"),
        _frozen(16, 4, 3),
        _frozen(3, 4, 7),
        nn.Conv2d(1, 4, 3),
    ],
    ids=[
        "stride",
        "dilation",
        "groups",
        "padding mode",
        "named padding",
        "many channels",
        "large",
        "trained",
    ],
)
def test_other_convolutions_stay_as_they_are(conv: nn.Conv2d) -> None:
    net = nn.Sequential(conv)
    thin(net)
    assert type(conv) is nn.Conv2d


def test_hooks_and_names_stay() -> None:
    conv = _frozen(1, 4, 3)
    seen = []
    conv.register_forward_hook(lambda module, args, output: seen.append(output.shape))
    net = nn.Sequential(conv)
    names = list(net.state_dict())
    thin(net)(torch.rand(2, 1, 8, 8).requires_grad_())
    assert seen == [(2, 4, 6, 6)]
    assert list(net.state_dict()) == names


def test_the_users_net_is_not_touched() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 3))
    prepared = Prepared(Classifier(net, 3, (1, 8, 8)))
    assert type(net[0]) is nn.Conv2d
    assert isinstance(prepared.net[0], ThinConv2d)  # type: ignore[index]


@pytest.mark.parametrize(("channels", "quick"), [(1, True), (3, False)])
def test_bfloat16_gradients_are_as_near_to_the_truth_as_the_libraries(channels: int, quick: bool) -> None:
    conv = _frozen(channels, 16, 3, padding=1)
    x = torch.rand(20, channels, 28, 28, generator=torch.Generator().manual_seed(1)).requires_grad_()
    upstream = torch.randn(20, 16, 28, 28, generator=torch.Generator().manual_seed(2))
    (truth,) = torch.autograd.grad(conv(x), x, upstream)

    def error(layer: nn.Module) -> float:
        z = x.detach().bfloat16().requires_grad_()
        out = layer(z)
        assert (type(out.grad_fn).__name__ == "_ConvolutionBackward") is (quick and layer is not rough)
        (grad,) = torch.autograd.grad(out, z, upstream.bfloat16())
        assert grad.dtype is torch.bfloat16
        return float((grad.float() - truth).norm() / truth.norm())

    rough = copy.deepcopy(conv).bfloat16()
    assert error(thin(copy.deepcopy(conv)).bfloat16()) < 1.5 * error(rough) < 0.02
