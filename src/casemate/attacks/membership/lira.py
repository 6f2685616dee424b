"""Likelihood ratio attack, LiRA (Carlini et al. 2022)."""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Generator, Tensor

from casemate.core.data import World
from casemate.core.errors import UsageError
from casemate.core.registry import Paper, membership
from casemate.core.target import ScoreOracle
from casemate.core.tick import Tick, ignore
from casemate.ops.losses import error_odds

CARLINI = Paper(
    "Membership inference attacks from first principles",
    "Carlini, Chien, Nasr, Song, Terzis, Tramèr",
    2022,
    "https://arxiv.org/abs/2112.03570",
)
BATCH = 250
ENOUGH = 64  # shadows from which each row has a variance of its own (the paper's rule)


@membership(
    papers=(CARLINI,), known_as=("likelihood ratio attack", "LiRA", "Membership training", "shadow training")
)
def lira(
    oracle: ScoreOracle,
    x: Tensor,
    y: Tensor,
    world: World,
    /,
    *,
    shadows: Annotated[int, Ge(4)] = 16,
    variant: Literal["online", "offline"] = "online",
    variance: Literal["auto", "global", "per_row"] = "auto",
    views: Literal["plain", "flipped"] = "plain",
    rng: Generator,
    tick: Tick = ignore,
) -> Tensor:
    """Compare each row's confidence with that of shadow models that saw it and that did not.

    With the signal s = z_y - logsumexp_{j != y} z_j of the target and normal distributions fitted
    to the signals of the row's IN and OUT shadows,

        online:   score = log N(s; mean_in, var_in) - log N(s; mean_out, var_out)
        offline:  score = (s - mean_out) / sd_out

    where means are per row, and variances per row or pooled over all rows ("global").

    Args:
        oracle: scores of the target.
        x: inputs (N, *S).
        y: their labels (N,).
        world: where the shadow models come from.
        shadows: number of shadow models, each trained without about half of the rows.
        variant: "online" uses shadows with and without each row, "offline" only those without it,
            as an adversary does who trained them before knowing the rows.
        variance: "per_row" or "global"; "auto" is per row from 64 shadows on.
        views: "flipped" also asks about each picture's mirror image and averages the two scores;
            sensible only where training mirrors pictures too.
        rng: not used; the world draws the shadows.
        tick: called after each shadow has been asked.

    Returns:
        Scores (N,), higher = more likely a training row.
    """
    looks = _views(x, views)
    asked = world.shadows(shadows)
    members = torch.stack([shadow.members for shadow in asked]).to(x.device)  # (M, N)
    own = variance == "per_row" or (variance == "auto" and shadows >= ENOUGH)
    scores = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for look in looks:
        target = _signal(oracle, look, y)
        signals = []
        for shadow in asked:
            signals.append(_signal(shadow.oracle, look, y))
            tick(len(signals), len(asked) * len(looks), {})
        scores += _score(target, torch.stack(signals), members, variant, own)
    # The paper fits a multivariate normal over the views; with few shadows its covariance cannot be
    # estimated, and the authors' code adds the views' log-likelihoods as if independent.
    return scores / len(looks)


def _views(x: Tensor, views: Literal["plain", "flipped"]) -> Sequence[Tensor]:
    if views == "plain":
        return [x]
    if x.dim() != 4:
        raise UsageError(
            f"The 'views' of membership.lira can be flipped for pictures (N, C, H, W). Got {tuple(x.shape)}."
        )
    return [x, x.flip(-1)]


def _signal(oracle: ScoreOracle, x: Tensor, y: Tensor) -> Tensor:
    """Log-odds of the true class (N,), in float64."""
    parts = torch.arange(len(x)).split(BATCH)
    return torch.cat([-error_odds(oracle[p].logits(x[p]).double(), y[p]) for p in parts])


def _score(
    s: Tensor, signals: Tensor, members: Tensor, variant: Literal["online", "offline"], own: bool
) -> Tensor:
    """Score s (N,) by the shadows' signals (M, N), which are IN where `members` (M, N) is True."""
    out_mean, out_var = _fit(signals, ~members, own)
    if variant == "offline":
        # The paper's score is the normal CDF of this, which rounds to 1 beyond 8; same order.
        return (s - out_mean) / out_var.sqrt()
    in_mean, in_var = _fit(signals, members, own)
    return _log_normal(s, in_mean, in_var) - _log_normal(s, out_mean, out_var)


def _fit(signals: Tensor, chosen: Tensor, own: bool) -> tuple[Tensor, Tensor]:
    """Mean and variance (N,) of each row's chosen signals."""
    count = chosen.sum(0)
    mean = (signals * chosen).sum(0) / count.clamp(min=1)
    # a row that no shadow saw (or every one did) gets the mean of the others
    mean = torch.where(count > 0, mean, mean.sum() / (count > 0).sum().clamp(min=1))
    squares = ((signals - mean) ** 2 * chosen).sum(0)
    freedom = (count - 1).clamp(min=0)
    # Pooled within rows. The authors' code takes the variance of all signals at once, which adds
    # the spread of the rows' means and makes unlike rows look alike.
    pooled = squares.sum() / freedom.sum().clamp(min=1)
    var = torch.where(freedom > 0, squares / freedom.clamp(min=1), pooled) if own else pooled.expand_as(mean)
    var = torch.where(var > 0, var, pooled)
    return mean, torch.where(var > 0, var, torch.ones_like(var))


def _log_normal(s: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    """Log density of a normal distribution, without the constant."""
    return -0.5 * (var.log() + (s - mean) ** 2 / var)
