"""TRADES: its two terms, and where the divergence is largest."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from casemate.core.errors import UsageError
from casemate.core.recipe import Recipe
from casemate.defences.training.adversarial import adversarial
from casemate.defences.training.trades import divergence, trades
from casemate.ops.rng import generator

X = 0.3 + 0.4 * torch.rand(4, 3, generator=generator(0))
Y = torch.tensor([0, 1, 1, 0])
WEIGHT = torch.tensor([[0.0, 0.0, 0.0], [1.0, -2.0, 0.5]])
PLAIN = Recipe(partial(nn.Linear, 3, 2), "linear")


def linear() -> nn.Linear:
    net = nn.Linear(3, 2, bias=False)
    net.weight = nn.Parameter(WEIGHT.clone())
    return net


def bernoulli_divergence(z: Tensor, moved: Tensor) -> Tensor:
    """KL of two classes by the log-odds z of the second one: p log(p/q) + (1-p) log((1-p)/(1-q))."""
    p, q = z.sigmoid(), moved.sigmoid()
    return p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()


def test_divergence_is_that_of_the_textbook() -> None:
    p, q = torch.tensor([[0.2, 0.3, 0.5]]), torch.tensor([[0.5, 0.25, 0.25]])
    expected = 0.2 * torch.tensor(0.4).log() + 0.3 * torch.tensor(1.2).log() + 0.5 * torch.tensor(2.0).log()
    torch.testing.assert_close(divergence(p.log(), q.log()), expected[None])
    assert divergence(p.log(), p.log()).abs().max() < 1e-7


def test_the_loss_has_its_two_terms_at_the_worst_inputs() -> None:
    """Log-odds are linear, z = w.x, and |w|_1 = 3.5: the divergence is largest at z +- 0.35.

    The climb takes the side on which its start lies, so each row's term is one of two known values.
    """
    base = F.cross_entropy(X @ WEIGHT.T, Y)
    loss = trades(PLAIN, eps=0.1, beta=0.0).batch_loss(linear(), X, Y, rng=generator(1))
    assert loss.item() == pytest.approx(float(base))
    z = X @ WEIGHT[1]
    up, down = bernoulli_divergence(z, z + 0.35), bernoulli_divergence(z, z - 0.35)
    for row in range(4):
        one = X[row : row + 1], Y[row : row + 1]
        plain, six = (
            trades(PLAIN, eps=0.1, beta=beta).batch_loss(linear(), *one, rng=generator(1)).item()
            for beta in (0.0, 6.0)
        )
        term = (six - plain) / 6
        assert min(abs(term - float(up[row])), abs(term - float(down[row]))) < 1e-5


def test_gradients_flow_through_both_predictions() -> None:
    """As in the authors' code: the gradient of beta * KL(p || q) counts the change of p as well as of q.

    The reference differentiates the textbook divergence between w.x and w.x' at the x' that was found.
    """
    seen: list[Tensor] = []
    net = linear()
    net.register_forward_hook(lambda layer, inputs, out: seen.append(inputs[0].detach()))
    trades(PLAIN, eps=0.1, beta=6.0).batch_loss(net, X, Y, rng=generator(1)).backward()
    x_adv = seen[-1]
    reference = linear()
    odds, moved = ((reference(v)[:, 1] - reference(v)[:, 0]) for v in (X, x_adv))
    (F.cross_entropy(reference(X), Y) + 6 * bernoulli_divergence(odds, moved).mean()).backward()
    torch.testing.assert_close(net.weight.grad, reference.weight.grad, atol=1e-5, rtol=1e-4)


def test_batch_statistics_see_clean_and_attacked_batch() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).train()
    trades(PLAIN, eps=0.1, steps=3).batch_loss(net, X, Y, rng=generator(0)).backward()
    assert int(net[1].num_batches_tracked) == 2


def test_a_loss_that_another_defence_has_replaced_is_not_thrown_away() -> None:
    with pytest.raises(UsageError, match="must be cross_entropy"):
        trades(adversarial(PLAIN))
    with pytest.raises(UsageError, match="must be cross_entropy"):
        trades(replace(PLAIN, batch_loss=lambda net, x, y, *, rng: net(x).sum()))
