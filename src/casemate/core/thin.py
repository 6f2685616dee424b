"""Input gradients of a first convolution, where the usual way is slow."""

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

FEW = 50  # values under the kernel up to which the way below is the faster one: 7x7 on 1 channel


class ThinConv2d(nn.Conv2d):
    """A convolution of images with few channels: the same values, a faster gradient to the image.

    Libraries compute the gradient to the input as a convolution with as many output channels as the
    image has, and fill only one or three lanes of eight or more. One matrix product with all kernel
    positions and a sum of shifted planes gives the same numbers, up to rounding, in a third to four
    fifths of the time, in float32 and in bfloat16. Parameters get no gradient: this is for nets whose weights are constant.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x (N, C, H, W)."""
        # bfloat16 planes of several channels cost more to add up than the product saves
        fast = x.dtype is torch.float32 or (x.dtype is torch.bfloat16 and self.in_channels == 1)
        if fast and x.requires_grad and torch.is_grad_enabled():
            out: Tensor = _Convolution.apply(x, self)  # type: ignore[no-untyped-call]
            return out
        return super().forward(x)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, conv: nn.Conv2d) -> Tensor:
        ctx.conv, ctx.size = conv, x.shape[2:]  # type: ignore[attr-defined]
        return nn.Conv2d.forward(conv, x)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        conv: nn.Conv2d = ctx.conv  # type: ignore[attr-defined]
        return _to_input(grad, conv, ctx.size), None  # type: ignore[attr-defined]


def _to_input(grad: Tensor, conv: nn.Conv2d, size: torch.Size) -> Tensor:
    """Carry a gradient (N, O, H', W') back through a convolution of stride 1: (N, C, H, W)."""
    weight, (top, left) = conv.weight, (int(side) for side in conv.padding)
    outs, channels, high, wide = weight.shape
    n, _, h, w = grad.shape
    flat = grad.permute(0, 2, 3, 1).reshape(-1, outs)
    planes = (weight.reshape(outs, -1).t() @ flat.t()).view(channels, high, wide, n, h, w)
    # many rounded numbers are added up: bfloat16 would round each sum as well
    full = grad.new_zeros(channels, n, h + high - 1, w + wide - 1, dtype=torch.float32)
    for i in range(high):
        for j in range(wide):
            full[:, :, i : i + h, j : j + w] += planes[:, i, j]
    return full[:, :, top : top + size[0], left : left + size[1]].transpose(0, 1).to(grad.dtype)


def thin(net: nn.Module) -> nn.Module:
    """Turn the convolutions of images in a frozen net on the CPU into thin ones, in place."""
    for module in net.modules():
        if _fits(module):
            module.__class__ = ThinConv2d  # keeps names, hooks and whatever else refers to it
    return net


def _fits(module: nn.Module) -> bool:
    return (
        type(module) is nn.Conv2d
        and module.in_channels <= 4
        and module.weight[0].numel() <= FEW
        and module.stride == module.dilation == (1, 1)
        and module.groups == 1
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
        and module.weight.device.type == "cpu"
        and not module.weight.requires_grad
    )
