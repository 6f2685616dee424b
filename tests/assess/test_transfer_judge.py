"""Attacks crafted on the adversary's own models: the target judges and is never asked."""

from dataclasses import replace

import pytest
import torch

from casemate.assess.bench import Bench
from casemate.assess.case import Case
from casemate.assess.families.evasion import attempt, measure
from casemate.assess.plan import check
from casemate.assess.presets import preset
from casemate.assess.store import Store
from casemate.core.data import Samples
from casemate.core.errors import NotApplicable, UsageError
from casemate.core.registry import find
from casemate.core.target import Prepared
from casemate.core.threat import Lp, Misclassify
from casemate.core.tick import ignore
from conformance.models import linear

BALL = Lp(norm="linf", eps=0.3)


def crafted(name, target, other, **params):
    entry = find(f"evasion.{name}")
    return attempt(
        entry, Prepared(target.target), target.x, Misclassify(target.y), BALL, params=entry.validate(params),
        numbers=torch.arange(len(target.x)), seed=0, crafted_on=other,
    )  # fmt: skip


def test_examples_are_those_of_the_surrogate_and_verdicts_those_of_the_target():
    target, other = linear(seed=0), linear(seed=7)
    found = crafted("mi_fgsm", target, Prepared(other.target), steps=4)
    assert torch.equal(found.predicted, target.target.predict(found.x_adv).argmax(1))
    assert torch.equal(found.fooled, found.predicted != target.y)
    # the surrogate's slope is all that moved the rows: the target's own would move others
    own = crafted("mi_fgsm", target, Prepared(target.target), steps=4)
    assert not torch.equal(own.x_adv, found.x_adv)


def test_no_row_leaves_early_and_the_target_is_not_asked():
    """Every row spends all its steps on the surrogate; a target that cannot be differentiated will do."""
    target, other = linear(seed=0), linear(seed=7)
    blind = replace(target, target=replace(target.target, differentiable=False))
    found = crafted("mi_fgsm", blind, Prepared(other.target), steps=6)
    assert found.ledger.queries.tolist() == found.ledger.gradients.tolist() == [6] * len(target.x)


@pytest.mark.parametrize("name", ["ddn", "hop_skip_jump", "random_noise"])
def test_searches_that_stop_at_the_first_example_are_refused(name):
    setting = linear()
    with pytest.raises(NotApplicable, match="do not transfer"):
        crafted(name, setting, Prepared(setting.target))


def bench_of(setting, tmp_path, **settings):
    samples = Samples(setting.x.float(), setting.y, 3)
    target = replace(setting.target, net=setting.target.net.float())
    nobody = lambda jobs, *, tick: pytest.fail("nothing may be trained")  # noqa: E731
    return Bench(target, Prepared(target), samples, None, None, nobody, Store(tmp_path), **settings)


def case_of(**settings):
    entry = find("evasion.mi_fgsm")
    return Case(
        method=entry.id,
        version=entry.version,
        params=entry.validate({}),
        data="d",
        rows=8,
        budget=BALL,
        **settings,
    )


def test_without_training_data_the_case_says_why_it_is_not_run(tmp_path):
    with pytest.raises(NotApplicable, match="trained on the training data, and none were given"):
        measure(
            find("evasion.mi_fgsm"), case_of(crafted_on=("resnet",)), bench_of(linear(), tmp_path), ignore
        )


def test_the_cost_says_whose_passes_it_counts(tmp_path):
    other = linear(seed=7).target
    other.net.float()
    bench = bench_of(linear(), tmp_path, surrogate=Prepared(other))
    entry = find("evasion.mi_fgsm")
    assert measure(entry, case_of(crafted_on=("mlp:1",)), bench, ignore).spent.of == "surrogate"
    # a surrogate on the bench is used only where the case says so
    assert measure(entry, case_of(), bench, ignore).spent.of == "target"


def test_cases_without_surrogates_keep_their_keys():
    plain = case_of()
    assert plain.key == Case.model_validate(plain.model_dump(exclude={"crafted_on"})).key
    assert plain.key != case_of(crafted_on=("mlp:1",)).key != case_of(crafted_on=("mlp:2",)).key
    assert Case.model_validate_json(case_of(crafted_on=("mlp:1",)).model_dump_json()).crafted_on == ("mlp:1",)


def test_the_presets_ask_for_transfer_and_unknown_nets_are_refused():
    plan = preset("standard")
    (threat,) = [t for t in plan.threats if t.id == "evasion-transfer"]
    wrong = threat.model_copy(update={"surrogates": ("resnet", "vog")})
    with pytest.raises(UsageError, match="Got 'vog'"):
        check(plan.model_copy(update={"threats": (wrong,)}))
