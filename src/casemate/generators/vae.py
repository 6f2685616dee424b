"""The variational auto-encoder of Kingma & Welling 2014."""

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import binary_cross_entropy

from casemate.generators.models import LatentModel
from casemate.generators.nets import REPORT_EVERY, Tick, batch, decoder, encoder, finished, fresh, silent


def train_vae(
    x: Tensor,
    /,
    *,
    latent: int = 16,
    width: int = 32,
    steps: int = 3000,
    rows: int = 64,
    lr: float = 2e-3,
    beta: float = 1.0,
    rng: Generator,
    tick: Tick = silent,
) -> LatentModel:
    """Learn codes of inputs from which they can be made again, near a standard normal distribution.

    Args:
        x: inputs (N, C, H, W) in [0, 1].
        latent: number of values in a code.
        width: channels at a quarter of the image size.
        steps: optimiser steps.
        rows: inputs in a step.
        lr: peak learning rate of Adam; it falls to 0 along a cosine.
        beta: weight of the codes' divergence from the standard normal distribution (1 in the paper).
        rng: source of the weights, batches and codes.
        tick: called now and then with the loss, in nats per input.

    Returns:
        The model; a function of the arguments, which leaves the global generators alone.
    """
    shape = tuple(x.shape[1:])
    read = fresh(lambda: encoder(shape, 2 * latent, width), rng)
    make = fresh(lambda: decoder(latent, shape, width), rng)
    optimizer = torch.optim.Adam([*read.parameters(), *make.parameters()], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(1, steps + 1):
        real = x[batch(x, rows, rng)]
        mean, log_variance = read(real).chunk(2, 1)
        z = mean + (log_variance / 2).exp() * torch.randn(mean.shape, generator=rng).to(mean)
        missed = binary_cross_entropy(make(z), real, reduction="sum")
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum() / 2
        loss = (missed + beta * divergence) / rows
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % REPORT_EVERY == 0 or step == steps:
            tick(step, steps, {"loss": loss.item()})
    return LatentModel(finished(make), finished(_means(read, latent)), latent, shape, width)


def _means(read: nn.Module, latent: int) -> nn.Module:
    """Drop the last layer's half that gives standard deviations."""
    assert isinstance(read, nn.Sequential)
    last = read[-1]
    assert isinstance(last, nn.Linear)
    last.weight = nn.Parameter(last.weight[:latent].detach().clone())
    last.bias = nn.Parameter(last.bias[:latent].detach().clone())
    last.out_features = latent
    return read
