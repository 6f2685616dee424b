"""A victim that learns random labels by heart, on data of twenty values."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from casemate.assess.bench import Bench
from casemate.assess.case import Case
from casemate.assess.families.membership import measure
from casemate.assess.plan import Ask, Threat
from casemate.assess.result import Flag, Requirement, Result
from casemate.assess.store import Store
from casemate.assess.verdicts import draw
from casemate.attacks.membership.lira import lira
from casemate.attacks.membership.loss import loss
from casemate.core.data import Samples
from casemate.core.errors import Cancelled, NotApplicable
from casemate.core.recipe import Recipe
from casemate.core.registry import Entry, find
from casemate.core.target import Classifier, Prepared
from casemate.core.tick import ignore
from casemate.ops.rng import generator
from casemate.ops.stats import share

CLASSES = 4


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, CLASSES))


RECIPE = Recipe(net, "two layers", epochs=100, batch=150, lr=2e-2)


def rows(n: int, seed: int, shift: float = 0.0) -> Samples:
    rng = generator(seed)
    x = 0.9 * torch.rand(n, 20, generator=rng) + shift
    return Samples(x, torch.randint(CLASSES, (n,), generator=rng), CLASSES)


class Trainer:
    """Train in this process, and remember what was asked for."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, jobs, /, *, tick) -> list[Classifier]:
        models = []
        for recipe, data, seed in jobs:
            samples = data if isinstance(data, Samples) else data.samples()
            self.sizes.append(len(samples))
            models.append(recipe(samples, rng=generator(seed)))
        return models


def make_bench(
    tmp_path, *, recipe: Recipe | None = RECIPE, shift: float = 0.0, train: int = 150, test: int = 200
) -> Bench:
    inside = rows(train, seed=1)
    target = (recipe or RECIPE)(inside, rng=generator(0))
    outside = rows(test, seed=2, shift=shift)
    return Bench(target, Prepared(target), outside, inside, recipe, Trainer(), Store(tmp_path / "out"))


def case(method: str = "membership.loss", **changes) -> Case:
    settings = dict(version=1, data="twenty values", rows=100)
    return Case(method=method, **{**settings, **changes})


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Bench:
    return make_bench(tmp_path_factory.mktemp("bench"))


def answer(bench: Bench, method: str = "membership.loss", entry: Entry | None = None, **changes):
    return measure(entry or find(method), case(method, **changes), bench, ignore)


def spy(run) -> Entry:
    """The loss attack with another body."""
    return replace(find("membership.loss"), run=run)


def codes(found) -> set[str]:
    return {flag.code for flag in found.flags}


def test_M3_an_overfitted_model_is_seen_through(bench):
    found = answer(bench)
    assert found.metrics["auc"].value > 0.9
    assert found.metrics["tpr_at_1pct_fpr"].value > 0.2
    assert found.clean["train_accuracy"].value > 0.99
    assert found.clean["accuracy"].value < 0.5
    shadowed = answer(bench, "membership.lira", params={"shadows": 8})
    assert shadowed.metrics["auc"].value > 0.9


def test_M6_more_overfitting_leaks_more(tmp_path):
    """After one pass, twelve and a hundred over the same rows."""
    found = [answer(make_bench(tmp_path, recipe=replace(RECIPE, epochs=e))) for e in (1, 12, 100)]
    areas = [f.metrics["auc"] for f in found]
    assert areas[0].low <= 0.5 <= areas[0].high
    assert areas[0].high < areas[1].value < areas[1].high < areas[2].low


def test_M3_opposite_scores_mirror_the_auc(bench):
    plain = answer(bench).metrics["auc"].value
    swapped = answer(bench, entry=spy(lambda *given, **settings: -loss(*given, **settings)))
    assert swapped.metrics["auc"].value == pytest.approx(1 - plain)


def test_a_guess_is_at_chance(bench):
    found = answer(
        bench, entry=spy(lambda oracle, x, y, world, /, *, rng, tick: torch.rand(len(x), generator=rng))
    )
    assert found.metrics["auc"].low <= 0.5 <= found.metrics["auc"].high
    assert found.metrics["tpr_at_1pct_fpr"].low <= 0.01


def test_as_many_members_as_others_in_an_order_that_tells_nothing(bench):
    found = answer(bench)
    members, places = found.tensors["members"], found.tensors["rows"]
    assert len(members) == 200
    assert int(members.sum()) == 100
    assert 30 < int(members[:100].sum()) < 70
    assert torch.equal(found.tensors["y"][members], bench.train.y[places[members]])
    assert torch.equal(found.tensors["y"][~members], bench.test.y[places[~members]])
    assert len(set(places[members].tolist())) == 100


def test_the_evidence_gives_the_numbers_again(bench):
    found = answer(bench)
    scores, members = found.tensors["scores"], found.tensors["members"]
    pairs = scores[members][:, None] > scores[~members]
    assert found.metrics["auc"].value == pytest.approx(float(pairs.double().mean()))


def test_shadows_are_trained_like_the_target_and_have_seen_each_row_half_of_the_times(tmp_path):
    bench, seen = make_bench(tmp_path), []

    def look(oracle, x, y, world, /, *, rng, tick):
        seen.extend(world.shadows(6))
        inputs = {tuple(row) for row in x.tolist()}
        assert not inputs & {tuple(row) for row in world.population.x.tolist()}
        assert len(world.population) == 150 + 200 - len(x)
        # a shadow is surer of the rows it has seen
        for shadow in seen:
            right = shadow.oracle.logits(x).argmax(1) == y
            assert right[shadow.members].double().mean() > 0.8
            assert right[~shadow.members].double().mean() < 0.5
        return torch.zeros(len(x))

    answer(bench, entry=spy(look))
    members = torch.stack([shadow.members for shadow in seen])
    assert members.sum(0).eq(3).all()
    assert members.sum(1).eq(100).all()
    assert not torch.equal(members[0], members[2])
    assert bench.train_many.sizes == [150] * 6


def test_methods_and_numbers_of_shadows_share_the_models(tmp_path):
    bench = make_bench(tmp_path, recipe=replace(RECIPE, epochs=2))
    for method, params, trained in [
        ("membership.loss", {}, 0),
        ("membership.lira", {"shadows": 4}, 4),
        ("membership.lira", {"shadows": 6}, 6),
        ("membership.lira", {"shadows": 6, "variant": "offline"}, 6),
    ]:
        answer(bench, method, params=params)
        assert len(bench.train_many.sizes) == trained
    answer(bench, "membership.lira", params={"shadows": 4}, seed=1)
    assert len(bench.train_many.sizes) == 10


def test_the_same_case_gets_the_same_answer_from_a_fresh_start(tmp_path):
    state = torch.get_rng_state()
    first, second = (
        answer(
            make_bench(tmp_path, recipe=replace(RECIPE, epochs=3)), "membership.lira", params={"shadows": 4}
        )
        for _ in range(2)
    )
    assert torch.equal(first.tensors["scores"], second.tensors["scores"])
    assert first.metrics == second.metrics
    assert first.baseline == second.baseline
    assert torch.equal(torch.get_rng_state(), state)


def test_M4_a_shift_between_the_two_kinds_is_told_from_memory(tmp_path):
    """Test rows are lighter by 0.1 of the range. A model that has learnt nothing leaks nothing."""
    found = answer(make_bench(tmp_path, shift=0.1, recipe=replace(RECIPE, epochs=1)))
    assert "blind-baseline" in codes(found)
    assert found.baseline["auc"].low > 0.8


@pytest.mark.parametrize("tpr", [0.0, 0.5])
def test_M4_no_verdict_is_drawn_where_the_blind_baseline_wins(tmp_path, tpr):
    threat = Threat(
        id="membership", title="Members", family="membership", attacks=(Ask(method="membership.loss"),),
        require=Requirement(metric="tpr_at_1pct_fpr", at_most=0.05),
    )  # fmt: skip
    asked, store = case(), Store(tmp_path)
    result = Result(
        key=asked.key, case=asked, status="done", metrics={"tpr_at_1pct_fpr": share(int(1000 * tpr), 1000)}
    )
    clear = draw(threat, [result], store, [], (20,))
    assert clear.outcome == ("falls" if tpr else "holds")
    shifted = result.model_copy(update={"flags": (Flag(code="blind-baseline"),)})
    assert draw(threat, [shifted], store, [], (20,)).outcome == "inconclusive"


def test_M4_data_of_one_kind_raise_no_alarm(tmp_path):
    for seed in range(3):
        found = answer(make_bench(tmp_path, recipe=replace(RECIPE, epochs=1)), seed=seed)
        assert "blind-baseline" not in codes(found)


def test_M5_rates_that_so_few_rows_cannot_measure_are_flagged(bench, tmp_path):
    """100 non-members allow one false alarm at 1% and none at 0.1%."""
    found = answer(bench)
    assert {"few-rows", "low-fpr-not-measurable"} <= codes(found)
    assert found.metrics["tpr_at_01pct_fpr"].low == 0
    many = answer(make_bench(tmp_path, train=1000, test=1000, recipe=replace(RECIPE, epochs=1)), rows=1000)
    assert codes(many) == {"low-fpr-not-measurable"}


def test_test_rows_that_are_training_rows_are_left_out(tmp_path):
    bench = make_bench(tmp_path, recipe=replace(RECIPE, epochs=1))
    mixed = Samples(
        torch.cat([bench.train.x[:50], bench.test.x[:100]]),
        torch.cat([bench.train.y[:50], bench.test.y[:100]]),
        CLASSES,
    )
    found = answer(replace(bench, test=mixed), rows=150)
    assert found.notes["test_rows_left_out_as_copies"] == 50
    assert found.notes["non_members"] == found.notes["members"] == 100
    assert found.tensors["rows"][~found.tensors["members"]].min() >= 50


def test_the_roc_is_a_curve_with_a_band_on_logarithmic_axes(bench):
    curve = answer(bench).curves["roc"]
    assert curve.log
    assert len(curve.x) == len(curve.y) == len(curve.low) == len(curve.high)
    assert curve.y == sorted(curve.y)


def test_queries_of_the_target_are_counted(bench):
    assert answer(bench).spent.queries_max == 1
    assert answer(bench, "membership.lira", params={"shadows": 8}).spent.queries_max == 1


def test_without_training_rows_nothing_can_be_asked(bench):
    with pytest.raises(NotApplicable, match="training data"):
        answer(replace(bench, train=None))


def test_without_a_recipe_only_attacks_with_shadows_are_left_out(tmp_path):
    bench = make_bench(tmp_path, recipe=None)
    assert answer(bench).metrics["auc"].value > 0.9
    with pytest.raises(NotApplicable, match="training recipe"):
        answer(bench, "membership.lira", params={"shadows": 4})


def test_a_handful_of_rows_is_refused(tmp_path):
    with pytest.raises(NotApplicable, match="Got 10 of each"):
        answer(make_bench(tmp_path, test=10, recipe=replace(RECIPE, epochs=1)))


@pytest.mark.parametrize(
    ("scores", "what"),
    [(torch.zeros(7), "a score for each of 200 rows"), (torch.full((200,), torch.nan), "NaN for 200 rows")],
)
def test_an_attack_that_returns_no_scores_fails_loudly(bench, scores, what):
    with pytest.raises(ValueError, match=what):
        answer(bench, entry=spy(lambda oracle, x, y, world, /, *, rng, tick: scores))


def test_a_raising_tick_stops_the_shadows(bench):
    def stop(step, total, values, /):
        raise Cancelled

    with pytest.raises(Cancelled):
        measure(
            replace(find("membership.lira"), run=lira),
            case("membership.lira", params={"shadows": 8}),
            bench,
            stop,
        )
