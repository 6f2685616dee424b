from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch

from casemate.assess.bench import Bench
from casemate.assess.case import Case
from casemate.assess.progress import Silent
from casemate.assess.run import run
from casemate.assess.store import Store
from casemate.core import registry
from casemate.core.errors import Cancelled, NotApplicable
from casemate.core.registry import Cost, Paper, evasion
from casemate.core.target import GradientOracle, LabelOracle, Prepared
from casemate.core.threat import Goal, Lp
from casemate.core.tick import Tick, ignore
from casemate.ops.rng import RowGenerator

TOY = Paper("A toy", "Nobody", 2026, "https://example.org")
CALLS: list[str] = []


@pytest.fixture
def toys(monkeypatch):
    """Register attacks that shift x0 by eps, crash, do not apply, or draw random numbers."""
    registry.load_all()
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
    CALLS.clear()
    register = evasion(norms=("linf",), papers=(TOY,), cost=lambda params, classes: Cost(queries=0))

    @register
    def toy_shift(
        oracle: LabelOracle,
        x: torch.Tensor,
        goal: Goal,
        budget: Lp,
        /,
        *,
        rng: RowGenerator,
        tick: Tick = ignore,
    ) -> torch.Tensor:
        """Shift the first value towards the boundary."""
        CALLS.append("shift")
        tick(1, 1, {})
        step = torch.zeros_like(x)
        step[:, 0] = torch.where(x[:, 0] > 0.5, -budget.eps, budget.eps)
        return x + step

    @register
    def toy_crash(
        oracle: LabelOracle,
        x: torch.Tensor,
        goal: Goal,
        budget: Lp,
        /,
        *,
        rng: RowGenerator,
        tick: Tick = ignore,
    ) -> torch.Tensor:
        """Crash."""
        CALLS.append("crash")
        raise RuntimeError("the toy broke\nwith a second line")

    @register
    def toy_absent(
        oracle: LabelOracle,
        x: torch.Tensor,
        goal: Goal,
        budget: Lp,
        /,
        *,
        rng: RowGenerator,
        tick: Tick = ignore,
    ) -> torch.Tensor:
        """Apply to nothing."""
        raise NotApplicable("toys are not for this target")

    @register
    def toy_gradient(
        oracle: GradientOracle,
        x: torch.Tensor,
        goal: Goal,
        budget: Lp,
        /,
        *,
        rng: RowGenerator,
        tick: Tick = ignore,
    ) -> torch.Tensor:
        """Draw noise."""
        CALLS.append("gradient")
        return x + (rng.uniform(*x.shape[1:]) * 2 - 1) * budget.eps


@pytest.fixture
def bench(two_class, points, tmp_path):
    def no_training(jobs, /, *, tick):
        raise AssertionError("nothing is trained here")

    return Bench(two_class, Prepared(two_class), points, None, None, no_training, Store(tmp_path / "out"))


def case(method: str, **changes) -> Case:
    settings = dict(version=1, data="points", budget=Lp(norm="linf", eps=0.2), rows=10)
    return Case(method=f"evasion.{method}", **{**settings, **changes})


def files(bench: Bench) -> Mapping[str, bytes]:
    return {p.name: p.read_bytes() for p in bench.store.results.iterdir()}


def test_the_second_run_computes_nothing_and_changes_no_byte(toys, bench):
    cases = [case("toy_shift"), case("toy_gradient")]
    first = list(run(cases, bench, Silent()))
    before, calls = files(bench), len(CALLS)
    assert calls == 2
    second = list(run(cases, bench, Silent()))
    assert second == first
    assert files(bench) == before
    assert len(CALLS) == calls


def test_progress_lines_tell_settings_only_where_names_would_be_alike(toys, bench):
    planned = []

    class Watcher(Silent):
        def plan(self, cases, /):
            planned.extend(cases)

    two = [case("toy_shift", params={"by": b, "of": 3}) for b in (1, 2)]
    list(run([*two, case("toy_crash", params={"by": 1})], bench, Watcher()))
    assert planned == ["evasion.toy_shift (by 1)", "evasion.toy_shift (by 2)", "evasion.toy_crash"]


def test_a_crash_becomes_a_visible_row_and_the_other_cases_run(toys, bench):
    results = list(run([case("toy_crash"), case("toy_shift")], bench, Silent()))
    assert [r.status for r in results] == ["failed", "done"]
    assert results[0].reason == "RuntimeError: the toy broke"
    assert results[1].metrics["robust_accuracy"].value == 0.6


def test_a_failed_case_is_tried_again(toys, bench):
    for _ in range(2):
        list(run([case("toy_crash")], bench, Silent()))
    assert CALLS == ["crash", "crash"]


def test_a_case_that_does_not_apply_is_skipped_with_its_reason(toys, bench):
    (result,) = run([case("toy_absent")], bench, Silent())
    assert (result.status, result.reason) == ("skipped", "toys are not for this target")


def test_a_target_without_gradients_skips_white_box_attacks(toys, bench, two_class):
    from dataclasses import replace

    blind = replace(two_class, differentiable=False)
    closed = replace(bench, target=blind, prepared=Prepared(blind))
    results = list(run([case("toy_gradient"), case("toy_shift")], closed, Silent()))
    assert [r.status for r in results] == ["skipped", "done"]
    assert "needs gradients" in results[0].reason


def test_order_and_resume_do_not_change_an_answer(toys, bench, tmp_path):
    from dataclasses import replace

    cases = [case("toy_shift"), case("toy_gradient")]
    other = replace(bench, store=Store(tmp_path / "other"))
    list(run(cases, bench, Silent()))
    list(run(cases[::-1], other, Silent()))
    here, there = files(bench), files(other)
    tensors = [name for name in here if name.endswith(".safetensors")]
    assert len(tensors) == 2
    assert all(here[name] == there[name] for name in tensors)


def test_a_chained_case_attacks_only_what_still_stands(toys, bench):
    """eps 0.1 takes 2 of 10 points; the next case gets the other 8 and takes 2 more with eps 0.2."""
    first = case("toy_shift", budget=Lp(norm="linf", eps=0.1))
    second = case("toy_shift", after=(first.key,))
    results = list(run([first, second], bench, Silent()))
    assert [r.metrics["robust_accuracy"].value for r in results] == [0.8, 0.6]
    assert ("after-others", "attacked what 1 earlier attack left") in {
        (f.code, f.detail) for f in results[1].flags
    }


def test_evidence_that_was_deleted_is_computed_again(toys, bench):
    (result,) = run([case("toy_shift")], bench, Silent())
    (bench.store.results / result.evidence[0]).unlink()
    list(run([case("toy_shift")], bench, Silent()))
    assert CALLS == ["shift", "shift"]
    assert (bench.store.results / result.evidence[0]).exists()


def test_evidence_that_was_cut_short_is_computed_again(toys, bench):
    (result,) = run([case("toy_shift")], bench, Silent())
    evidence = bench.store.results / result.evidence[0]
    whole = evidence.read_bytes()
    evidence.write_bytes(whole[: len(whole) // 2])
    assert "evidence" in bench.store.doubt(result.key)
    list(run([case("toy_shift")], bench, Silent()))
    assert CALLS == ["shift", "shift"]
    assert evidence.read_bytes() == whole


class Noisy(torch.nn.Module):
    """Classes by chance, whatever the input."""

    def forward(self, x):
        return torch.randn(len(x), 2)


def test_a_net_that_draws_random_numbers_answers_alike_after_a_resume(toys, bench, tmp_path):
    noisy = replace(bench.target, net=Noisy())
    cases = [case("toy_gradient"), case("toy_gradient", seed=1), case("toy_shift", seed=1)]

    def answers(folder, wanted):
        torch.rand(len(wanted))  # what ran before must not count
        found = run(
            wanted, replace(bench, target=noisy, prepared=Prepared(noisy), cache={}, store=Store(tmp_path / folder)),
            Silent(),
        )  # fmt: skip
        return [(r.metrics, r.baseline, r.clean) for r in found]

    assert answers("whole", cases) == answers("back", cases[::-1])[::-1]


def test_a_watcher_can_stop_the_run_and_finished_cases_stay(toys, bench):
    class Stopping(Silent):
        steps = 0

        def step(self, step, total, values, /):
            Stopping.steps += 1
            if Stopping.steps == 2:
                raise Cancelled("enough")

    cases = [case("toy_shift"), case("toy_shift", seed=1)]
    with pytest.raises(Cancelled):
        list(run(cases, bench, Stopping()))
    assert bench.store.get(cases[0].key) is not None
    assert bench.store.get(cases[1].key) is None


def test_no_row_left_to_attack_is_no_failure(toys, bench):
    first = case("toy_shift", budget=Lp(norm="linf", eps=0.5))
    second = case("toy_gradient", after=(first.key,))
    results = list(run([first, second], bench, Silent()))
    assert [r.status for r in results] == ["done", "done"]
    assert results[1].metrics["robust_accuracy"].value == 0.0


def test_wrong_use_found_in_the_middle_fails_its_case_only(toys, bench):
    """An infinite radius is refused by attacks that need a ball, and the next case still runs."""
    endless = case("fgsm", budget=Lp(norm="linf", eps=float("inf")), params={"loss": "ce"})
    results = list(run([endless, case("toy_shift")], bench, Silent()))
    assert [r.status for r in results] == ["failed", "done"]
    assert "finite" in results[0].reason


def test_an_assessment_that_was_answered_before_is_not_written_again(tmp_path):
    from casemate.assess.assessment import Options, assess
    from casemate.assess.plan import Ask, Plan, Threat
    from casemate.assess.result import Requirement

    threat = Threat(
        id="pixels", title="Small changes", family="evasion", attacks=(Ask(method="evasion.fgsm"),),
        require=Requirement(metric="robust_accuracy", at_least=0.5),
    )  # fmt: skip
    plan, written = Plan(name="small", rows=20, threats=(threat,)), []
    for command in ("one", "another"):
        assess(plan=plan, options=Options(workers=1), out=tmp_path / "out", command=command)
        written.append((tmp_path / "out" / "assessment.json").read_bytes())
    assert written[0] == written[1]
