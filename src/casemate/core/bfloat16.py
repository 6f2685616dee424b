"""A copy of the target in bfloat16, to steer gradient attacks at about half the price."""

import copy

import torch
from torch import Tensor, nn

from casemate.core.target import Prepared

SAME_DECISIONS = 0.95  # share of the probe on which the copy must decide as the original


def bfloat16_copy(prepared: Prepared, x: Tensor, /) -> nn.Module | None:
    """Build a copy for `Prepared.cheap`; None where it would not help or not steer well.

    On processors with bfloat16 arithmetic a forward and backward pass of a convolutional net takes
    about half the time; nets of a few thousand weights get slower. Gradients are rougher; claims of
    success are confirmed in float32 by `GradientOracle.reached`, at one more query of the claimed
    row, so a row may cost more than its method declares. Nets in another precision than float32,
    and nets that cannot run in bfloat16 or decide otherwise there, get no copy. What is returned
    depends on the processor and the net, never on a stopwatch.

    Args:
        prepared: the target.
        x: inputs (N, *S) on which the copy is tried.

    Returns:
        The copy in evaluation mode, with constant parameters.
    """
    kinds = {p.dtype for p in prepared.net.parameters()}
    if not len(x) or x.dtype is not torch.float32 or kinds != {torch.float32}:
        return None
    if prepared.target.device.type != "cpu" or not native():
        return None
    trial = copy.copy(prepared)
    trial.cheap = copy.deepcopy(prepared.net).to(torch.bfloat16)
    z = x.detach().requires_grad_()
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            logits = trial.steering(z)
            (grad,) = torch.autograd.grad(logits.sum(), z)
    except Exception:  # an operation without a bfloat16 form, or whatever a foreign net says of it
        return None
    same = logits.argmax(1) == prepared.quick(x).argmax(1)
    sound = bool(logits.isfinite().all()) and bool(grad.isfinite().all())
    return trial.cheap if sound and float(same.float().mean()) >= SAME_DECISIONS else None


def native() -> bool:
    """Tell whether the processor computes in bfloat16 itself; torch emulates it slowly elsewhere."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
