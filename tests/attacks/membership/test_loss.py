import torch
from torch.nn.functional import cross_entropy

from casemate.attacks.membership.loss import loss
from casemate.core.data import Samples, World
from casemate.core.target import Classifier, Ledger, ScoreOracle
from casemate.ops.rng import generator


def attack(logits: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, Ledger]:
    """Score rows whose inputs are their logits."""
    ledger = Ledger.empty(len(y))
    oracle = ScoreOracle(Classifier(torch.nn.Identity(), logits.shape[1], logits.shape[1:]), ledger)
    world = World(Samples(logits[:0], y[:0], logits.shape[1]), lambda k: [])
    return loss(oracle, logits, y, world, rng=generator(0)), ledger


def test_rows_are_ordered_by_their_cross_entropy():
    logits = torch.randn(600, 5, generator=generator(1))
    y = torch.arange(600) % 5
    scores, _ = attack(logits, y)
    order = scores.argsort(descending=True)
    assert torch.equal(order, cross_entropy(logits, y, reduction="none").argsort())


def test_the_score_is_the_log_odds_of_the_true_class():
    """Probabilities 3/4 and 1/4: odds 3 and 1/3."""
    scores, _ = attack(torch.tensor([[0.75, 0.25], [0.75, 0.25]]).log(), torch.tensor([0, 1]))
    assert torch.allclose(scores, torch.tensor([3.0, 1 / 3]).log())


def test_confident_rows_keep_their_order():
    """Cross-entropy is exactly 0 in float32 for all three."""
    logits = torch.tensor([[200.0, 0.0], [100.0, 0.0], [300.0, 0.0]])
    y = torch.zeros(3, dtype=torch.int64)
    assert cross_entropy(logits, y, reduction="none").eq(0).all()
    assert attack(logits, y)[0].argsort().tolist() == [1, 0, 2]


def test_each_row_is_asked_once():
    _, ledger = attack(torch.randn(600, 5, generator=generator(1)), torch.zeros(600, dtype=torch.int64))
    assert ledger.queries.eq(1).all()


def test_no_rows_have_no_scores():
    assert attack(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))[0].shape == (0,)
