"""The auxiliary-classifier GAN of Odena et al. 2017 with the critic of WGAN-GP, as Song et al. 2018 use it."""

import torch
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy, one_hot

from casemate.generators.models import ConditionalModel
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


def train_conditional_gan(
    x: Tensor,
    y: Tensor,
    classes: int,
    /,
    *,
    latent: int = 32,
    width: int = 48,
    steps: int = 3000,
    critic_steps: int = 5,
    rows: int = 64,
    lr: float = 3e-4,
    weight: float = 10.0,
    class_weight: float = 1.0,
    rng: Generator,
    tick: Tick = silent,
) -> ConditionalModel:
    """Learn to make inputs of a given class that a critic takes for real and a classifier for that class.

    Args:
        x: inputs (N, C, H, W) in [0, 1].
        y: their classes (N,), in 0 .. classes - 1.
        classes: number of classes K.
        latent: number of values in a code.
        width: channels at a quarter of the image size.
        steps: steps of the generator.
        critic_steps: critic's steps for each of the generator's.
        rows: inputs in a step.
        lr: learning rate of Adam.
        weight: weight of the gradient penalty.
        class_weight: weight of the class in the generator's and the critic's loss.
        rng: source of the weights, batches and codes.
        tick: called now and then with the critic's estimate of the distance and the classifier's loss.

    Returns:
        The model; a function of the arguments, which leaves the global generators alone.
    """
    shape = tuple(x.shape[1:])
    make = fresh(lambda: decoder(latent + classes, shape, width), rng)
    # critic and classifier share all but their last layer: the first value is the critic's
    critic = fresh(lambda: encoder(shape, 1 + classes, width), rng)
    ours, theirs = (torch.optim.Adam(net.parameters(), lr=lr, betas=(0.5, 0.9)) for net in (make, critic))

    def codes() -> tuple[Tensor, Tensor]:
        wanted = torch.randint(classes, (rows,), generator=rng)
        z = torch.randn(rows, latent, generator=rng)
        return torch.cat([z, one_hot(wanted, classes)], 1).to(x), wanted.to(y)

    for step in range(1, steps + 1):
        for _ in range(critic_steps):
            some = batch(x, rows, rng)
            real, (z, _wanted) = x[some], codes()
            with torch.no_grad():
                made = make(z)
            seen = critic(real)
            far = seen[:, 0].mean() - critic(made)[:, 0].mean()
            # the classifier learns from real inputs alone, so that made ones cannot shift what a class is
            missed = cross_entropy(seen[:, 1:], y[some])
            steep = penalty(lambda v: critic(v)[:, 0], real, made, rng)
            theirs.zero_grad(set_to_none=True)
            (weight * steep - far + class_weight * missed).backward()
            theirs.step()
        z, wanted = codes()
        seen = critic(make(z))
        ours.zero_grad(set_to_none=True)
        (class_weight * cross_entropy(seen[:, 1:], wanted) - seen[:, 0].mean()).backward()
        ours.step()
        if step % REPORT_EVERY == 0 or step == steps:
            tick(step, steps, {"distance": far.item(), "class loss": missed.item()})
    return ConditionalModel(finished(make), finished(critic), latent, classes, shape, width)
