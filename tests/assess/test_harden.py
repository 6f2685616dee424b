"""How a defence is chosen: by what an attack that knows it leaves standing."""

import pytest
import torch
from torch import nn

from casemate.assess.bench import Bench
from casemate.assess.harden import NONE, _against_evasion, ranked, recommended
from casemate.assess.progress import silent
from casemate.assess.retrain import ROBUST
from casemate.assess.serve import serve, undefended
from casemate.assess.store import Store
from casemate.core.data import Samples
from casemate.core.errors import UsageError
from casemate.core.registry import find
from casemate.core.target import Classifier, Prepared
from casemate.core.threat import Lp

BALL = Lp(norm="linf", eps=0.1)
WEIGHTS = torch.tensor([1.0, 2.0])


class Line(nn.Module):
    """Logits (-s, s) for s = x1 + 2 x2 - 1.5."""

    def forward(self, x):
        s = (x - 0.5) @ WEIGHTS
        return torch.stack([-s, s], 1)


def no_training(jobs, /, *, tick):
    raise AssertionError("nothing is trained here")


@pytest.fixture
def bench(tmp_path):
    target = Classifier(Line(), 2, (2,))
    x = torch.rand(90, 2, generator=torch.Generator().manual_seed(3))
    samples = Samples(x, target.predict(x).argmax(1), 2)
    return Bench(
        target, Prepared(target), samples, samples, None, no_training, Store(tmp_path), {"target": "t"}
    )


def worst(samples, before):
    """Share of rows that keep their class in the ball's worst corner after a step that keeps order.

    s rises with both values, so the lowest and the highest s lie in opposite corners.
    """
    low, high = (((before((samples.x + d).clamp(0, 1))) - 0.5) @ WEIGHTS for d in (-0.1, 0.1))
    stands = torch.where(samples.y == 1, low > 0, high < 0)
    right = ((before(samples.x) - 0.5) @ WEIGHTS > 0) == (samples.y == 1)
    return float((stands & right).double().mean())


def test_candidates_are_measured_under_an_attack_that_knows_them(bench):
    """Both numbers have a closed form; rounding to four levels hides the gradient, which changes nothing."""
    best, effects = serve(bench, [find("serving.bit_depth"), find("serving.jpeg")], BALL, 0, silent)
    expected = worst(bench.train, lambda x: (3 * x).round() / 3)
    assert best.robust == expected
    assert effects == {"serving.bit_depth": {ROBUST: expected}}, "pictures alone can be compressed"
    assert undefended(bench, BALL, 0) == worst(bench.train, lambda x: x)


def test_a_defence_is_recommended_only_if_it_beats_the_target_as_it_is(bench):
    named = find("serving.bit_depth")
    defended, _, price = _against_evasion(bench, BALL, named, 0, silent)
    alone, behind = (price["candidates"][name][ROBUST] for name in (NONE, named.id))
    assert recommended(price) == ([named.id] if behind > alone else [])
    assert list(price["candidates"]) == list(ranked(price["candidates"]))
    assert defended.target is not bench.target
    price["candidates"] = {named.id: {ROBUST: 0.4}, NONE: {ROBUST: 0.4}}
    assert recommended(price) == []
    price["candidates"][NONE] = {ROBUST: 0.3}
    assert recommended(price) == [named.id]
    assert recommended({}) == []


def test_candidates_are_ranked_by_what_stands():
    effects = {"a": {ROBUST: 0.1}, "b": {ROBUST: 0.7}, NONE: {ROBUST: 0.3}}
    assert list(ranked(effects)) == ["b", NONE, "a"]


def test_a_defence_that_does_not_fit_is_refused(bench):
    with pytest.raises(UsageError, match=r"serving\.jpeg does not fit"):
        _against_evasion(bench, BALL, find("serving.jpeg"), 0, silent)
