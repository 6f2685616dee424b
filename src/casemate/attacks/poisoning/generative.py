"""The generative method: a network that turns normal inputs into poison, at the speed of a forward pass."""

import copy
from functools import partial
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Generator, Tensor, nn

from casemate.core.data import Poison, PoisonBudget, Samples
from casemate.core.errors import NotApplicable
from casemate.core.learner import Learner, untrained
from casemate.core.registry import Paper, poisoning
from casemate.core.rehearsal import Mixture, Rehearsal, Stage
from casemate.core.tick import Tick, ignore
from casemate.core.workshop import Workshop
from casemate.generators.nets import batch, fits
from casemate.generators.vae import train_vae
from casemate.ops.rng import generator

YANG = Paper(
    "Generative poisoning attack method against neural networks",
    "Yang, Wu, Li, Chen",
    2017,
    "https://arxiv.org/abs/1703.01340",
)
REWARDED = 128  # validation rows that the reward is measured on
TRIALS = 10  # times in the generator's training that its poison is tried on a whole training of a victim


@poisoning(papers=(YANG,), known_as=("Generative method", "generative poisoning"), version=2)
def generative(
    workshop: Workshop,
    budget: PoisonBudget,
    /,
    *,
    offset: Annotated[int, Ge(1)] = 1,
    steps: Annotated[int, Ge(1)] = 300,
    inner_steps: Annotated[int, Ge(1)] = 5,
    lr: Annotated[float, Gt(0)] = 1e-3,
    cap: Annotated[float, Gt(0)] = 10.0,
    closeness: Annotated[float, Ge(0)] = 0.0,
    latent: Annotated[int, Ge(1)] = 16,
    warm_up_steps: Annotated[int, Ge(1)] = 400,
    rng: Generator,
    tick: Tick = ignore,
) -> Poison:
    """Train an auto-encoder to turn normal images into poison, rewarded by what it does to a victim in training.

    A victim is played through: `inner_steps` batches of clean rows and poison, as often as its training
    has batches, and again from the start. After each turn the loss on validation rows is the reward, whose
    gradient goes through the victim's steps back to the generator. Now and then its poison is tried on a
    whole training, and the poison that did most is kept. Poison costs one forward pass of a trained generator.

    Args:
        workshop: what the adversary knows; its recipe gives the victim's net, which is a trained one if
            the victim learns online, its batches and its learning rates.
        budget: share of the rows that the adversary supplies.
        offset: classes from a row's own to the label that its poison gets, modulo K.
        steps: steps of the generator.
        inner_steps: the victim's steps between two of the generator's.
        lr: learning rate of the generator (Adam).
        cap: most that one validation row can add to the reward, in nats.
        closeness: weight of the squared l2 distance to the normal image, in nats per unit of x squared.
        latent: number of values between the generator's two halves.
        warm_up_steps: steps in which the generator first learns to reproduce its inputs.
        rng: source of the rows, first weights and batches.
        tick: called after each step of the generator with the reward.

    Returns:
        Generated inputs in place of random rows, each with the label that follows the row's own.

    Raises:
        NotApplicable: fewer than two classes, an `offset` that leads back to the own class, or inputs
            other than images whose sides are multiples of 4.
    """
    clean = workshop.clean
    if not fits(clean.shape):
        raise NotApplicable("poisoning.generative makes images whose sides are multiples of 4")
    if clean.classes < 2 or offset % clean.classes == 0:
        raise NotApplicable(f"an offset of {offset} leads to no other of {clean.classes} classes")
    rows = torch.randperm(len(clean), generator=rng)[: budget.rows(len(clean))].to(clean.y.device)
    labels = (clean.y + offset) % clean.classes
    if not len(rows):
        return Poison(rows, clean.x[rows], labels[rows])
    keep = torch.ones_like(clean.y, dtype=torch.bool)
    keep[rows] = False
    x, valid = clean.x.float(), workshop.held_out
    make = _auto_encoder(x, latent, warm_up_steps, rng)
    optimizer = torch.optim.Adam(make.parameters(), lr=lr)
    learner = untrained(workshop.recipe, x, rng)
    victim = Rehearsal(learner, workshop.recipe, len(clean))
    rest = Samples(x[keep], clean.y[keep], clean.classes)
    mixture = Mixture(rest, len(rows) / len(clean), workshop.recipe.batch)
    stage, trial = victim.begin(), int(torch.randint(2**62, (), generator=rng))
    poison, most = clean.x[rows], -float("inf")
    for step in range(steps):
        parts = [batch(x, mixture.poisons, rng).to(x.device) for _ in range(inner_steps)]
        with torch.enable_grad():
            made = [make(x[part]) for part in parts]
            losses = [
                partial(mixture.loss, learner, x=z, y=labels[part], rng=rng)
                for z, part in zip(made, parts, strict=True)
            ]
            stage = victim.advance(stage, losses)
            reward = _reward(learner, stage, valid, cap, rng)
            far = torch.cat(made) - x[torch.cat(parts)]
            loss = closeness * far.flatten(1).square().sum(1).mean() - reward
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
        optimizer.step()
        # the paper's victim keeps what each turn has taught it, and so does this one, until its training ends
        if victim.over(stage):
            stage = victim.begin()
        tick(step + 1, steps, {"reward": float(reward.detach())})
        if (step + 1) % max(1, steps // TRIALS) == 0 or step + 1 == steps:
            with torch.no_grad():
                made_now = torch.cat([make(x[part]) for part in rows.split(500)])
            # the paper keeps the last one; what a generator does can be gone some steps later
            done = _tried(victim, mixture, Samples(made_now, labels[rows], clean.classes), valid, cap, trial)
            if done > most:
                poison, most = made_now, done
    return Poison(rows, poison.to(clean.x.dtype), labels[rows])


def _tried(
    victim: Rehearsal, mixture: Mixture, poison: Samples, valid: Samples, cap: float, seed: int
) -> float:
    """Let a victim train to its end with this poison and measure its capped loss on validation rows."""
    rng, of = generator(seed), victim.learner
    stage = victim.begin()
    while not victim.over(stage):
        some = batch(poison.x, mixture.poisons, rng).to(poison.y.device)
        loss = partial(mixture.loss, of, x=poison.x[some], y=poison.y[some], rng=rng)
        stage = victim.advance(stage, [loss])
    with torch.no_grad():
        logits = of.logits(stage.weights, valid.x.float())
        return float(nn.functional.cross_entropy(logits, valid.y, reduction="none").clamp(max=cap).mean())


def _auto_encoder(x: Tensor, latent: int, steps: int, rng: Generator) -> nn.Sequential:
    """Learn to reproduce inputs, so that the generator starts among them; all of its weights stay free."""
    # the paper's is a plain auto-encoder; this one spreads its codes a little (beta), which helps it to start
    model = train_vae(x, latent=latent, steps=steps, beta=0.1, rng=rng)
    halves = copy.deepcopy(model.inverter), copy.deepcopy(model.maker)
    return nn.Sequential(*halves).requires_grad_(True)


def _reward(learner: Learner, stage: Stage, valid: Samples, cap: float, rng: Generator) -> Tensor:
    """Measure the victim's loss on validation rows, none of which counts for more than `cap`."""
    some = batch(valid.x, REWARDED, rng).to(valid.y.device)
    logits = learner.logits(stage.weights, valid.x[some].float())
    return nn.functional.cross_entropy(logits, valid.y[some], reduction="none").clamp(max=cap).mean()
