"""Randomised smoothing."""

from dataclasses import dataclass, replace
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from scipy import stats
from torch import Generator, Tensor, nn

from casemate.core.adaptive import Behind
from casemate.core.compiled import compile_forward
from casemate.core.errors import UsageError
from casemate.core.registry import Paper, serving
from casemate.core.target import Classifier, Prepared
from casemate.core.tick import Tick, ignore
from casemate.ops.rng import RowGenerator

COHEN = Paper(
    "Certified adversarial robustness via randomized smoothing",
    "Cohen, Rosenfeld, Kolter",
    2019,
    "https://arxiv.org/abs/1902.02918",
)
SALMAN = Paper(
    "Provably robust deep learning via adversarially trained smoothed classifiers",
    "Salman, Yang, Li, Zhang, Razenshteyn, Bubeck",
    2019,
    "https://arxiv.org/abs/1906.04584",
)
BATCH = 500  # noisy inputs in one forward pass
ABSTAINS = -1


class Smoothed(nn.Module):
    """Let a net vote on noisy copies of its input: x (N, *S) -> shares of the votes (N, K).

    Their gradient is that of the mean probabilities (Salman et al.), so an attack that follows it
    averages over the draws of each answer.
    """

    def __init__(self, target: Classifier, sigma: float, draws: int) -> None:
        super().__init__()
        self.net = Behind(target)
        self.sigma, self.draws = sigma, draws

    def forward(self, x: Tensor) -> Tensor:
        """Vote on x."""
        votes, soft = [], []
        for _ in range(self.draws):
            logits = self.net(x + self.sigma * torch.randn_like(x))
            votes.append(nn.functional.one_hot(logits.argmax(1), logits.shape[1]).to(x))
            soft.append(logits.softmax(1))
        shares, slope = torch.stack(votes).mean(0), torch.stack(soft).mean(0)
        return shares + (slope - slope.detach())


@serving(papers=(COHEN, SALMAN), known_as=("randomized smoothing", "randomised smoothing"))
def smoothing(
    target: Classifier,
    /,
    *,
    sigma: Annotated[float, Gt(0)] = 0.25,
    draws: Annotated[int, Ge(1)] = 100,
    rng: Generator,
) -> Classifier:
    """Answer by the majority over noisy copies of the input; stands, with a certificate (`certify`).

    Within the certified radius no input of another class exists, whatever the attack. The model
    should have been trained with noise of the same size (`training.gaussian`).

    Args:
        target: the classifier to defend.
        sigma: standard deviation of the noise, in units of `x`; more certifies farther and costs accuracy.
        draws: noisy copies per answer; an answer takes as many times longer.
        rng: not used; noise is drawn when the defence answers.

    Returns:
        The smoothed classifier; its scores are shares of the votes.
    """
    if target.outputs == "labels":
        target = replace(target, outputs="logits")
    return Classifier(
        Smoothed(target, sigma, draws), target.classes, target.shape,
        differentiable=target.differentiable, device=target.device,
    )  # fmt: skip


@dataclass(frozen=True)
class Certificate:
    """What is certain of n inputs: the class (n,), -1 where the vote is too close, and the l2 radius (n,).

    Each row is wrong with a probability of at most `alpha`, over the noise.
    """

    label: Tensor
    radius: Tensor

    def holds(self, y: Tensor, radius: float) -> Tensor:
        """Tell which rows are certainly of class y (n,) up to a radius, (n,) bool."""
        return (self.label == y) & (self.radius >= radius)


def certify(
    target: Classifier,
    x: Tensor,
    /,
    *,
    sigma: float = 0.25,
    guesses: int = 100,
    draws: int = 1000,
    alpha: float = 0.001,
    rng: RowGenerator,
    tick: Tick = ignore,
) -> Certificate:
    """Certify that the smoothed target answers alike all around each input (Cohen et al., CERTIFY).

    A few votes choose the class, others bound its probability p from below by Clopper & Pearson; the
    radius is sigma * Phi^-1(p).

    Args:
        target: the classifier, not smoothed yet.
        x: inputs (N, *S) in [0, 1], on the target's device.
        sigma: standard deviation of the noise, in units of `x`.
        guesses: votes that choose the class, n0 in the paper.
        draws: votes that bound its probability, n in the paper.
        alpha: probability, per row, that the certificate is wrong.
        rng: source of the noise, one stream per row.
        tick: called after each row.

    Returns:
        Classes and radii; a row abstains where p is not above 1/2.

    Raises:
        UsageError: a setting is out of its range.
    """
    if not (sigma > 0 and guesses >= 1 and draws >= 1 and 0 < alpha < 1):
        raise UsageError(
            "A certificate needs sigma > 0, guesses >= 1, draws >= 1 and alpha in (0, 1). Got "
            f"sigma={sigma}, guesses={guesses}, draws={draws}, alpha={alpha}."
        )
    prepared = Prepared(target)
    prepared.fast = compile_forward(prepared, x[:64])
    label = torch.full((len(x),), ABSTAINS)
    radius = torch.zeros(len(x), dtype=torch.float64)
    for i in range(len(x)):
        row, noise = x[i : i + 1], rng[i : i + 1]
        top = int(_votes(prepared, row, sigma, guesses, noise).argmax())
        hits = int(_votes(prepared, row, sigma, draws, noise)[top])
        sure = float(stats.beta.ppf(alpha, hits, draws - hits + 1)) if hits else 0.0
        if sure > 0.5:
            label[i], radius[i] = top, sigma * float(stats.norm.ppf(sure))
        tick(i + 1, len(x), {"certified": float((label[: i + 1] >= 0).double().mean())})
    return Certificate(label, radius)


def _votes(prepared: Prepared, row: Tensor, sigma: float, count: int, noise: RowGenerator) -> Tensor:
    """Count the votes on noisy copies of one input, (K,)."""
    total = torch.zeros(prepared.target.classes, dtype=torch.int64, device=row.device)
    while count:
        size = min(count, BATCH)
        copies = row + sigma * noise.normal(size, *row.shape[1:])[0].to(row)
        labels = prepared.quick(copies).argmax(1)
        total += labels.bincount(minlength=len(total))
        count -= size
    return total
