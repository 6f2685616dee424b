import pytest
import torch
from scipy import stats
from torch import nn

from casemate.core.errors import UsageError
from casemate.core.target import Classifier
from casemate.defences.serving.smoothing import certify, smoothing
from casemate.ops.rng import generator, rows, seeded


class Half(nn.Module):
    """Class 1 where the first value is above 1/2; the nearest input of the other class is that far away."""

    def forward(self, x):
        s = x[:, 0] - 0.5
        return torch.stack([-s, s], 1)


TARGET = Classifier(Half(), 2, (3,))


def inputs(n):
    return torch.rand(n, 3, generator=torch.Generator().manual_seed(1))


def test_no_certificate_is_beaten():
    """Smoothing leaves a half-space as it is, so the true radius is |x1 - 1/2|.

    A row is wrong with probability alpha = 0.01 at most: of 200 rows, 12 or more wrong ones have a
    probability below 1e-5.
    """
    x = inputs(200)
    found = certify(TARGET, x, sigma=0.25, guesses=20, draws=200, alpha=0.01, rng=rows(0, 200))
    truth, distance = (x[:, 0] > 0.5).long(), (x[:, 0] - 0.5).abs().double()
    sure = found.label >= 0
    wrong = sure & ((found.label != truth) | (found.radius > distance))
    assert int(wrong.sum()) < 12
    assert float(sure.double().mean()) > 0.5


def test_a_unanimous_vote_gives_the_radius_of_the_formula():
    """All n votes: the bound on p is alpha^(1/n), and the radius sigma Phi^-1(p)."""
    x = torch.tensor([[1000.0, 0, 0]])
    found = certify(TARGET, x, sigma=0.5, guesses=10, draws=300, alpha=0.001, rng=rows(0, 1))
    assert found.label.tolist() == [1]
    assert float(found.radius[0]) == pytest.approx(0.5 * stats.norm.ppf(0.001 ** (1 / 300)))


def test_a_tie_abstains():
    found = certify(TARGET, torch.tensor([[0.5, 0, 0]]), sigma=0.25, draws=100, rng=rows(0, 1))
    assert found.label.tolist() == [-1]
    assert not found.holds(torch.tensor([1]), 0.0).any()


def test_certificates_depend_on_the_streams_only():
    x = inputs(5)
    state = torch.random.get_rng_state()
    whole = certify(TARGET, x, guesses=10, draws=50, rng=rows(3, 5))
    part = certify(TARGET, x[2:4], guesses=10, draws=50, rng=rows(3, [2, 3]))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(whole.radius[2:4], part.radius)
    assert len(certify(TARGET, x[:0], rng=rows(0, 0)).label) == 0


def test_settings_out_of_range_are_refused():
    with pytest.raises(UsageError, match="alpha"):
        certify(TARGET, inputs(1), alpha=0.0, rng=rows(0, 1))


def test_the_smoothed_model_answers_with_shares_of_the_votes():
    """At distance d the share of votes for the right side is Phi(d / sigma)."""
    served = smoothing(TARGET, sigma=0.25, draws=2000, rng=generator(0))
    with seeded(0, torch.device("cpu")):
        shares = served.predict(torch.tensor([[0.5 + 0.25, 0, 0]]))
    assert float(shares.sum()) == pytest.approx(1)
    # four standard deviations of a share of 2000 votes
    assert float(shares[0, 1]) == pytest.approx(stats.norm.cdf(1), abs=0.04)
