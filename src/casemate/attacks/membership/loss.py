"""Loss threshold (Yeom et al. 2018)."""

import torch
from torch import Generator, Tensor

from casemate.core.data import World
from casemate.core.registry import Paper, membership
from casemate.core.target import ScoreOracle
from casemate.core.tick import Tick, ignore
from casemate.ops.losses import error_odds

YEOM = Paper(
    "Privacy risk in machine learning: analyzing the connection to overfitting",
    "Yeom, Giacomelli, Fredrikson, Jha",
    2018,
    "https://arxiv.org/abs/1709.01604",
)
BATCH = 250


@membership(papers=(YEOM,), known_as=("Yeom", "loss threshold", "LOSS attack"))
def loss(
    oracle: ScoreOracle, x: Tensor, y: Tensor, world: World, /, *, rng: Generator, tick: Tick = ignore
) -> Tensor:
    """Call rows members whose loss under the target is low.

    score = z_y - logsumexp_{j != y} z_j, the log-odds of the true class. Needs one query per row
    and neither data nor shadow models.

    Args:
        oracle: scores of the target.
        x: inputs (N, *S).
        y: their labels (N,).
        world: not used.
        rng: not used.
        tick: called after each batch.

    Returns:
        Scores (N,), higher = more likely a training row.
    """
    # The paper thresholds the cross-entropy, softplus(-score). Its order is the score's, but in
    # float32 it is exactly 0 on confident rows, and their order would be lost.
    scores = []
    for part in torch.arange(len(x)).split(BATCH):
        scores.append(-error_odds(oracle[part].logits(x[part]), y[part]))
        tick(int(part[-1]) + 1 if len(part) else 0, len(x), {})
    return torch.cat(scores)
