"""The Wasserstein GAN with gradient penalty of Gulrajani et al. 2017, and an inverter for it (Zhao et al. 2018)."""

import torch
from torch import Generator, Tensor, nn

from casemate.generators.models import LatentModel
from casemate.generators.nets import (
    REPORT_EVERY,
    Tick,
    batch,
    decoder,
    encoder,
    finished,
    fresh,
    penalty,
    silent,
)


def train_wgan_gp(
    x: Tensor,
    /,
    *,
    latent: int = 32,
    width: int = 48,
    steps: int = 3000,
    critic_steps: int = 5,
    rows: int = 64,
    lr: float = 3e-4,
    weight: float = 10.0,
    rng: Generator,
    tick: Tick = silent,
) -> LatentModel:
    """Learn to make inputs that a critic cannot tell from real ones, and to find the codes of real ones.

    Args:
        x: inputs (N, C, H, W) in [0, 1].
        latent: number of values in a code.
        width: channels at a quarter of the image size.
        steps: steps of the generator, and of the inverter after it.
        critic_steps: critic's steps for each of the generator's.
        rows: inputs in a step.
        lr: learning rate of Adam.
        weight: weight of the gradient penalty (10 in the paper).
        rng: source of the weights, batches and codes.
        tick: called now and then with the critic's estimate of the distance, then the inverter's loss.

    Returns:
        The model; a function of the arguments, which leaves the global generators alone.
    """
    shape = tuple(x.shape[1:])
    make = fresh(lambda: decoder(latent, shape, width), rng)
    critic = fresh(lambda: encoder(shape, 1, width), rng)
    ours, theirs = (torch.optim.Adam(net.parameters(), lr=lr, betas=(0.5, 0.9)) for net in (make, critic))
    far = torch.zeros(())
    for step in range(1, steps + 1):
        for _ in range(critic_steps):
            real = x[batch(x, rows, rng)]
            with torch.no_grad():
                made = make(_codes(rows, latent, real, rng))
            far = critic(real).mean() - critic(made).mean()
            loss = weight * penalty(lambda v: critic(v)[:, 0], real, made, rng) - far
            theirs.zero_grad(set_to_none=True)
            loss.backward()
            theirs.step()
        ours.zero_grad(set_to_none=True)
        (-critic(make(_codes(rows, latent, x, rng))).mean()).backward()
        ours.step()
        if step % REPORT_EVERY == 0:
            tick(step, 2 * steps, {"distance": far.item()})
    finished(make)
    inverter = _invert(make, x, latent, width, steps, rows, rng, tick)
    return LatentModel(make, inverter, latent, shape, width)


def _invert(
    make: nn.Module, x: Tensor, latent: int, width: int, steps: int, rows: int, rng: Generator, tick: Tick
) -> nn.Module:
    """Learn the codes from which real inputs are made: |G(I(x)) - x|^2 + 0.1 |I(G(z)) - z|^2."""
    inverter = fresh(lambda: encoder(tuple(x.shape[1:]), latent, width), rng)
    optimizer = torch.optim.Adam(inverter.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(1, steps + 1):
        real, z = x[batch(x, rows, rng)], _codes(rows, latent, x, rng)
        missed = (make(inverter(real)) - real).square().flatten(1).sum(1).mean()
        strayed = (inverter(make(z)) - z).square().sum(1).mean()
        loss = missed + 0.1 * strayed
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % REPORT_EVERY == 0 or step == steps:
            tick(steps + step, 2 * steps, {"loss": loss.item()})
    return finished(inverter)


def _codes(rows: int, latent: int, like: Tensor, rng: Generator) -> Tensor:
    return torch.randn(rows, latent, generator=rng).to(like)
