import pytest
import torch

from casemate.assess.blind import blind_scores
from casemate.core.data import Samples
from casemate.ops.rng import generator
from casemate.ops.roc import auc, beats_chance

MEMBERS = torch.arange(300) < 150


def pictures(seed: int = 0) -> Samples:
    rng = generator(seed)
    return Samples(torch.rand(300, 1, 8, 8, generator=rng), torch.randint(3, (300,), generator=rng), 3)


def seen_through(samples: Samples, seed: int = 0) -> bool:
    scores = blind_scores(samples, MEMBERS, seed)
    return beats_chance(scores[MEMBERS].numpy(), scores[~MEMBERS].numpy())


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_rows_of_one_source_look_alike(seed):
    assert not seen_through(pictures(seed))


@pytest.mark.parametrize("how", ["brighter", "eight bits", "other labels", "one value"])
def test_rows_of_two_sources_are_told_apart(how):
    samples = pictures()
    x, y = samples.x.clone(), samples.y.clone()
    match how:
        case "brighter":
            x[MEMBERS] = x[MEMBERS] * 0.9 + 0.1
        case "eight bits":
            x[MEMBERS] = (x[MEMBERS] * 255).round() / 255
        case "other labels":
            y[MEMBERS] = y[MEMBERS].clamp(max=1)
        case "one value":
            x[MEMBERS, 0, 3, 3] *= 0.6
    assert seen_through(Samples(x, y, 3))


def test_scores_are_higher_for_what_resembles_the_members():
    samples = pictures()
    samples.x[MEMBERS] *= 0.8
    scores = blind_scores(samples, MEMBERS, 0)
    assert auc(scores[MEMBERS].numpy(), scores[~MEMBERS].numpy()).value > 0.9


def test_the_same_seed_gives_the_same_scores():
    samples = pictures()
    first, second, other = (blind_scores(samples, MEMBERS, seed) for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_large_inputs_are_thinned_but_a_shift_of_all_values_stays_visible():
    samples = Samples(
        torch.rand(300, 3, 32, 32, generator=generator(0)), torch.zeros(300, dtype=torch.int64), 2
    )
    samples.x[MEMBERS] *= 0.98
    assert seen_through(samples)
