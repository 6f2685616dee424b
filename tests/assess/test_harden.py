"""How a defence is chosen: by what an attack that knows it leaves standing."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from casemate.assess import cleansing, retrain
from casemate.assess.bench import Bench
from casemate.assess.choosing import LEAST, MOST, NONE, ROBUST, SEEN, UNSEEN, choose_rows, ranked, recommended
from casemate.assess.cleansing import against_backdoors, candidates, cleanest, helps
from casemate.assess.families.evasion import subset
from casemate.assess.harden import _against_evasion
from casemate.assess.presets import preset
from casemate.assess.progress import silent
from casemate.assess.retrain import robust_share
from casemate.assess.serve import serve
from casemate.assess.store import Store
from casemate.core.data import Samples
from casemate.core.errors import UsageError
from casemate.core.recipe import Recipe
from casemate.core.registry import find
from casemate.core.target import Classifier, Prepared
from casemate.core.threat import Lp
from casemate.ops.rng import generator
from casemate.ops.stats import Estimate

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
    x = torch.rand(290, 2, generator=torch.Generator().manual_seed(3))
    samples = Samples(x, target.predict(x).argmax(1), 2)
    return Bench(
        target,
        Prepared(target),
        samples[:200],
        samples[200:],
        None,
        no_training,
        Store(tmp_path),
        {"target": "t"},
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
    best, effects = serve(
        bench, [find("serving.bit_depth"), find("serving.jpeg")], bench.train, BALL, 0, silent
    )
    expected = worst(bench.train, lambda x: (3 * x).round() / 3)
    assert best.robust.value == expected
    assert list(effects) == ["serving.bit_depth"], "pictures alone can be compressed"
    assert effects["serving.bit_depth"][ROBUST]["value"] == expected
    alone = robust_share(bench.target, bench.train, BALL, 0)
    assert alone.value == worst(bench.train, lambda x: x)
    assert alone.n == len(bench.train)
    assert alone.low < alone.value < alone.high


def test_all_candidates_are_compared_on_the_same_rows_that_nothing_else_uses(bench):
    """Of 200 test rows 60 are attacked for the final numbers: the other 140 serve, whoever is compared."""
    choice = choose_rows(bench, 60, 5)
    used = {tuple(row) for row in subset(bench.test, 60, 5)[0].x.tolist()}
    chosen = {tuple(row) for row in choice.rows.x.tolist()}
    assert not used & chosen
    assert used | chosen == {tuple(row) for row in bench.test.x.tolist()}
    assert (choice.what, choice.rest) == (UNSEEN, bench.train)
    _, _, price = _against_evasion(bench, BALL, find("serving.bit_depth"), 60, 5, silent)
    assert price["compared_on"] == f"140 {UNSEEN}"
    assert {each[ROBUST]["n"] for each in price["candidates"].values()} == {140}
    assert price["candidates"][NONE][ROBUST]["value"] == worst(choice.rows, lambda x: x)


def test_training_rows_serve_where_test_rows_are_short_and_the_label_says_so(bench):
    choice = choose_rows(bench, len(bench.test) - LEAST + 1, 0)
    assert choice.what == SEEN
    assert len(choice.rows) == len(bench.train) // 5
    assert len(choice.rest) == len(bench.train) - len(choice.rows)
    assert len(choose_rows(replace(bench, test=bench.train[torch.arange(MOST + 1) % 90]), 0, 0).rows) == MOST
    with pytest.raises(UsageError, match="needs 100 test rows"):
        choose_rows(replace(bench, train=None), 150, 0)


def est(value, half=0.02):
    return {"value": value, "low": value - half, "high": value + half, "n": 300}


def test_a_defence_is_recommended_only_if_it_clearly_beats_the_target_as_it_is(bench):
    named = find("serving.bit_depth")
    defended, _, price = _against_evasion(bench, BALL, named, 60, 0, silent)
    assert list(price["candidates"]) == list(ranked(price["candidates"]))
    assert defended.target is not bench.target
    for alone, wanted in ((0.4, []), (0.37, []), (0.3, [named.id])):
        price["candidates"] = {named.id: {ROBUST: est(0.4)}, NONE: {ROBUST: est(alone)}}
        assert recommended(price) == wanted, alone
    assert recommended({}) == []


def test_candidates_are_ranked_by_what_stands():
    effects = {"a": {ROBUST: est(0.1)}, "b": {ROBUST: est(0.7)}, NONE: {ROBUST: est(0.3)}}
    assert list(ranked(effects)) == ["b", NONE, "a"]


def test_an_answer_to_backdoors_helps_only_if_it_is_clear_and_cheap():
    """Success .99 at a price of .27 was recommended before, as were defences that left success as it was."""
    without = {"attack_success": est(0.97), "accuracy_lost": 0.0}
    for success, lost, wanted in (
        (0.99, 0.27, False), (0.95, 0.0, False), (0.1, 0.27, False), (0.1, 0.02, True), (0.97, 0.0, False)
    ):  # fmt: skip
        assert helps({"attack_success": est(success), "accuracy_lost": lost}, without) == wanted


def test_answers_to_backdoors_are_ordered_by_effect_and_dear_ones_come_last():
    effects = {
        name: {"attack_success": est(success), "accuracy_lost": lost}
        for name, success, lost in (("a", 0.9, 0.0), ("b", 0.0, 0.3), (NONE, 0.97, 0.0), ("c", 0.1, 0.01))
    }
    assert list(cleanest(effects)) == ["c", "a", NONE, "b"]


def test_screenings_that_are_blind_to_backdoors_are_not_tried_against_them():
    tried = [e.id for e in candidates(None)]
    assert {
        "screening.spectral",
        "screening.strip",
        "training.abl",
        "repair.fine_pruning",
        "repair.i_bau",
        "repair.ft_sam",
    } <= set(tried)
    assert not {"screening.high_loss", "screening.deep_knn", "training.dpa"} & set(tried)
    assert candidates(find("screening.strip")) == [find("screening.strip")]
    assert candidates(find("training.trades")) == []


def test_a_stopped_choice_goes_on_where_it_stopped(bench, monkeypatch):
    """What was measured before the stop is not measured again, and the answers are the same."""
    _, first, whole = _against_evasion(bench, BALL, find("serving.bit_depth"), 60, 0, silent)

    def measured_again(*said):
        raise AssertionError("measured before")

    monkeypatch.setattr(retrain, "robust_share", measured_again)
    _, again, price = _against_evasion(bench, BALL, find("serving.bit_depth"), 60, 0, silent)
    assert price == whole
    assert again == first
    with pytest.raises(AssertionError, match="measured before"):
        _against_evasion(bench, BALL, find("serving.bit_depth"), 60, 1, silent)


def test_a_stopped_training_keeps_what_was_trained(bench, monkeypatch):
    """Three defences are trained and the run is killed after the first: the second run trains the others."""
    asked = []

    class Killed(Exception):
        pass

    def train(jobs, /, *, tick, done):
        for i, (recipe, data, seed) in enumerate(jobs):
            asked.append(seed)
            done(i, recipe(data, rng=generator(seed)))
            if len(asked) == 1:
                raise Killed

    recipes = {n: Recipe(partial(nn.Linear, 2, 2), n, epochs=1, batch=8) for n in ("a", "b", "c")}
    bench = replace(bench, train_many=train, digests={"target": "t", "data": "d"})
    bench.store.open()
    with pytest.raises(Killed):
        retrain._weights(bench, recipes, bench.train, 0, silent)
    models, seconds = retrain._weights(bench, recipes, bench.train, 0, silent)
    assert len(asked) == 3
    assert set(models) == set(seconds) == set(recipes)
    undisturbed = recipes["a"](bench.train, rng=generator(asked[0])).net.weight
    assert torch.equal(models["a"].net.weight, undisturbed)


def test_a_defence_that_does_not_fit_is_refused(bench):
    with pytest.raises(UsageError, match=r"serving\.jpeg does not fit"):
        _against_evasion(bench, BALL, find("serving.jpeg"), 60, 0, silent)


def backdoored(success, accuracy):
    """A case of clean victims with accuracy 0.9."""
    metrics = {"attack_success": Estimate(**est(success)), "accuracy": Estimate(**est(accuracy))}
    return SimpleNamespace(metrics=metrics, clean={"accuracy": Estimate(**est(0.9))})


def test_the_price_of_a_defence_is_not_what_the_poison_costs():
    """The poison takes 0.05 and 0.2 of accuracy; the defence takes 0.02 and gives 0.1 back."""
    without = {("m", 0.1): backdoored(0.8, 0.85), ("m", 0.3): backdoored(0.9, 0.7)}
    found = cleansing._effect({("m", 0.1): backdoored(0.2, 0.83), ("m", 0.3): backdoored(0.1, 0.8)}, without)
    assert found["attack_success"]["value"] == 0.2
    assert found["accuracy_lost"] == pytest.approx(0.02)
    assert cleansing._effect(without, without)["accuracy_lost"] == 0


def test_each_backdoor_is_answered_by_itself_and_compared_with_no_defence(bench, monkeypatch):
    """Two threats fall: pruning helps against one of them alone, and each has its own row for no defence."""
    threats = [t for t in preset("thorough").threats if t.family == "backdoor"][:2]
    asked = []

    def answered(threat, bench, plan, entry, seed, progress):
        asked.append((threat.id, entry.id if entry else NONE))
        good = entry is not None and entry.id == "repair.fine_pruning" and threat == threats[0]
        return {("backdoor.badnets", 0.1): backdoored(0.1 if good else 0.97, 0.7 if entry else 0.71)}

    monkeypatch.setattr(cleansing, "_answered", answered)
    chosen, report, good = against_backdoors(threats, bench, preset("thorough"), None, 0, silent)
    assert chosen[threats[0].id] == ("repair.fine_pruning",)
    assert set(chosen) == {t.id for t in threats}
    assert good == [f"repair.fine_pruning against {threats[0].id}"]
    assert next(iter(report)) == good[0]
    assert {f"{NONE} against {t.id}" for t in threats} <= set(report)
    assert len(report) == len(asked) == len(threats) * (1 + len(candidates(None)))
    asked.clear()
    assert against_backdoors(threats, bench, preset("thorough"), find("training.trades"), 0, silent)[0] == {}
    assert not asked, "nothing is trained for a defence that does not answer"
