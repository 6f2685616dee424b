"""ATN's re-ranking by hand."""

import torch

from casemate.attacks.universal.atn import rerank


def test_reranking_raises_the_target_to_alpha_times_the_largest():
    """(.5, .3, .2), t = 2, alpha 1.5: (.5, .3, .75) / 1.55."""
    p = torch.tensor([[0.5, 0.3, 0.2]])
    expected = torch.tensor([[0.5, 0.3, 0.75]]) / 1.55
    torch.testing.assert_close(rerank(p, torch.tensor([2]), 1.5), expected)


def test_reranking_keeps_the_order_of_the_others():
    p = torch.rand(50, 6, generator=torch.Generator().manual_seed(0)).softmax(1)
    new = rerank(p, torch.full((50,), 2), 1.5)
    rest = [0, 1, 3, 4, 5]
    assert torch.equal(new.argmax(1), torch.full((50,), 2))
    assert torch.equal(new[:, rest].argsort(1), p[:, rest].argsort(1))
    torch.testing.assert_close(new.sum(1), torch.ones(50))
