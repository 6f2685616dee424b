"""Pitfalls R2, R3, R5, R9 and M2: what is reported, and whether it can be got again."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from casemate.assess.families.poisoning import eligible, hits
from casemate.assess.plan import AUTOATTACK
from casemate.core.data import Poison, Samples, World
from casemate.core.errors import UsageError
from casemate.core.registry import entries, find
from casemate.core.target import Classifier, GradientOracle, ScoreOracle
from casemate.ops.losses import error_odds
from casemate.ops.rng import generator
from conformance import membership


def test_R2_what_is_called_autoattack_has_its_parts_and_their_budgets():
    """Croce & Hein 2020: APGD-CE, APGD-T and FAB-T of 100 steps on 9 targets, Square of 5,000 queries."""
    parts = {ask.method: find(ask.method).validate(ask.params) for ask in AUTOATTACK}
    assert list(parts) == ["evasion.apgd", "evasion.apgd_t", "evasion.fab_t", "evasion.square"]
    assert (parts["evasion.apgd"]["loss"], parts["evasion.apgd"]["steps"]) == ("ce", 100)
    for name in ("evasion.apgd_t", "evasion.fab_t"):
        assert (parts[name]["steps"], parts[name]["targets"]) == (100, 9)
    assert parts["evasion.square"]["queries"] == 5000


def test_R2_no_single_method_is_called_autoattack():
    for entry in entries():
        for name in (entry.name, *entry.known_as):
            assert "autoattack" not in name.lower().replace("-", "").replace(" ", "")


def test_R3_data_without_labels_are_refused():
    """Robust accuracy against predictions instead of labels is another number (0.094 for 0.0)."""
    with pytest.raises((UsageError, TypeError)):
        Samples(torch.rand(4, 2), None, 2)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="one label per input"):
        Samples(torch.rand(4, 2), torch.zeros(0, dtype=torch.int64), 2)


def test_R5_attack_success_counts_only_rows_of_other_classes_that_the_clean_model_gets_right():
    """Four rows of classes 0, 0, 1, 2; the clean model errs on the last; target class 0.

    Over all rows a model that always answers 0 would have success 1.0 on 4 rows, of which two are
    of class 0 anyway. Only row 2 counts.
    """
    test = Samples(torch.eye(4), torch.tensor([0, 0, 1, 2]), 3)
    clean = Classifier(Answers([0, 0, 1, 1]), 3, (4,))
    poison = Poison(torch.zeros(0, dtype=torch.int64), test.x[:0], test.y[:0], trigger=lambda x: x, target=0)
    rows = eligible(clean, test, poison)
    assert torch.equal(rows.x, test.x[2:3])
    assert hits(Classifier(Answers([0, 0, 0, 0]), 3, (4,)), rows, poison) == 1.0
    assert hits(clean, rows, poison) == 0.0


class Answers(nn.Module):
    """Answer row i of the unit vectors with a given class."""

    def __init__(self, labels: list[int]) -> None:
        super().__init__()
        self.labels = torch.tensor(labels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.one_hot(self.labels[x.argmax(1)], 3).float()


def test_M2_each_rows_mean_is_over_all_shadows_that_did_not_see_it():
    """Offline LiRA against a loop over rows, with different numbers of OUT shadows per row.

    An implementation that keeps a fixed number of the sorted signals is right only where every row
    has exactly that many.
    """
    given = membership.setting(20)
    shadows = given.world.shadows(6)
    members = torch.stack([s.members for s in shadows])
    assert len(set((~members).sum(0).tolist())) > 1
    world = World(given.rows, lambda count: shadows)
    scores = find("membership.lira").run(
        ScoreOracle(given.target, 20), given.rows.x, given.rows.y, world,
        shadows=6, variant="offline", variance="global", views="plain", rng=generator(0),
    )  # fmt: skip
    signals = torch.stack(
        [-error_odds(s.oracle.logits(given.rows.x), given.rows.y).double() for s in shadows]
    )
    target = -error_odds(GradientOracle(given.target, 20).logits(given.rows.x), given.rows.y).double()
    seen = [(~members[:, i]).nonzero().flatten().tolist() for i in range(20)]
    means = [sum(float(signals[m, i]) for m in out) / len(out) if out else None for i, out in enumerate(seen)]
    squares = sum((float(signals[m, i]) - means[i]) ** 2 for i, out in enumerate(seen) for m in out)
    freedom = sum(max(len(out) - 1, 0) for out in seen)
    for i, out in enumerate(seen):
        if out:
            expected = (float(target[i]) - means[i]) / (squares / freedom) ** 0.5
            assert float(scores[i]) == pytest.approx(expected, rel=1e-5)


CHILD = """
import sys, time, torch
from casemate.assess.bench import Bench
from casemate.assess.case import Case
from casemate.assess.progress import Silent
from casemate.assess.run import run
from casemate.assess.store import Store
from casemate.core.registry import find
from casemate.core.target import Prepared
from casemate.core.threat import Lp
from casemate.core.data import Samples
from conformance import models

class Slow(Silent):
    def step(self, *values):
        time.sleep(0.05)

setting = models.trained(torch.float32)
data = Samples(setting.x, setting.y, 4)
bench = Bench(setting.target, Prepared(setting.target), data, None, None, None, Store(sys.argv[1]))
cases = [
    Case(method=f"evasion.{name}", version=1, data="d", rows=12, seed=seed,
         params=find(f"evasion.{name}").validate({}), budget=Lp(norm="linf", eps=0.1))
    for name in ("random_noise", "pgd") for seed in range(3)
]
bench.store.open()
print("ready", flush=True)
assert [r.status for r in run(cases, bench, Slow())] == ["done"] * 6
"""


def start(folder: Path) -> subprocess.Popen[str]:
    paths = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder)], stdout=subprocess.PIPE, text=True, env=environment
    )


@pytest.mark.slow
def test_R9_killed_at_random_points_and_resumed_the_answers_are_equal_to_the_bit(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    with start(whole) as child:
        assert child.wait(timeout=300) == 0
    chance = random.Random(0)
    for _ in range(2):
        with start(killed) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            time.sleep(chance.uniform(0.0, 1.0))
            child.send_signal(signal.SIGKILL)
    with start(killed) as child:
        assert child.wait(timeout=300) == 0
    evidence = sorted(p.name for p in (whole / "results").glob("*.safetensors"))
    assert len(evidence) == 6
    for name in evidence:
        assert (killed / "results" / name).read_bytes() == (whole / "results" / name).read_bytes()
