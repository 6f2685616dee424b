"""What the judge of backdoors does to marks and to supplied models."""

from dataclasses import replace
from functools import partial

import torch
from torch import nn

from casemate.assess.bench import Bench
from casemate.assess.case import Case
from casemate.assess.families.poisoning import Served, _rounded, _visibility, measure
from casemate.assess.store import Store
from casemate.core.data import Poison, Samples
from casemate.core.recipe import Recipe
from casemate.core.registry import find
from casemate.core.target import Prepared
from casemate.core.tick import ignore
from casemate.core.triggers import Added
from casemate.ops.rng import generator


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))


def test_defences_are_tried_on_the_same_poisoned_victims_without_training_them_again(tmp_path) -> None:
    """Two victims of the attack are trained once for both candidates, and the answers are as without sharing."""
    recipe = Recipe(partial(net), "line", epochs=2, batch=16)
    x = torch.rand(120, 1, 6, 6, generator=generator(0))
    data = Samples(x, (x.mean((1, 2, 3)) > 0.5).long(), 2)
    trained = []

    def train(jobs, /, *, tick):
        trained.extend(jobs)
        return [recipe(rows, rng=generator(seed)) for recipe, rows, seed in jobs]

    target = recipe(data, rng=generator(9))
    entry = find("backdoor.badnets")
    case = Case(
        method=entry.id,
        version=entry.version,
        params=entry.validate({}),
        data="d",
        rate=0.2,
        rows=60,
        repeats=2,
    )

    def answers(keep):
        trained.clear()
        bench = Bench(
            target,
            Prepared(target),
            data[:60],
            data[60:],
            recipe,
            train,
            Store(tmp_path),
            {},
            keep_poisoned=keep,
        )
        cases = [case, *(case.model_copy(update={"defences": (d,)}) for d in ("repair.fine_pruning",) * 2)]
        return [replace(measure(entry, c, bench, ignore), tensors={}) for c in cases]

    alone, alone_trained = answers(keep=False), len(trained)
    shared, shared_trained = answers(keep=True), len(trained)
    assert shared == alone
    assert (alone_trained, shared_trained) == (2 + 3 * 2, 2 + 2)


def test_marks_reach_models_as_8_bit_images() -> None:
    """0.4 of a level is lost in rounding, 0.6 of a level becomes a whole one."""
    x = torch.full((1, 1, 2, 2), 100 / 255)
    lost, whole = (Served(Added(torch.full((1, 2, 2), part / 255)))(x) for part in (0.4, 0.6))
    assert torch.equal(lost, x)
    assert torch.allclose(whole * 255, torch.full_like(x, 101.0), atol=1e-4)


def test_poisons_are_rounded_before_training() -> None:
    trigger = Added(torch.zeros(1, 2, 2))
    made = _rounded(
        Poison(torch.tensor([0]), torch.full((1, 1, 2, 2), 100.4 / 255), torch.tensor([1]), trigger, 1)
    )
    assert torch.allclose(made.x * 255, torch.full_like(made.x, 100.0), atol=1e-4)


def test_one_tenth_everywhere_is_twenty_decibels() -> None:
    """-10 log10(0.1^2) = 20, and 0.1 is 25.5 levels."""
    clean = Samples(torch.zeros(3, 1, 2, 2), torch.tensor([0, 1, 1]), 2)
    poison = Poison(torch.tensor([1]), torch.full((1, 1, 2, 2), 0.1), torch.tensor([0]), Added(clean.x[0]), 0)
    seen = {"poisoned_rows": 1, "training_rows": 3, "psnr_db": 20.0, "linf_levels": 25.5}
    assert _visibility(poison, clean) == seen
