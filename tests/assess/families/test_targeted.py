"""The judge of targeted poisons cuts what it is given to the budget and trains a victim for each aim."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from casemate.assess.bench import Bench
from casemate.assess.case import Case
from casemate.assess.families import targeted
from casemate.assess.families.targeted import in_budget, measure
from casemate.assess.store import Store
from casemate.core.data import Poison, Samples
from casemate.core.errors import NotApplicable
from casemate.core.recipe import Recipe
from casemate.core.registry import Entry, find
from casemate.core.tampering import Tampering
from casemate.core.target import Classifier, Prepared
from casemate.core.tick import ignore
from casemate.ops.rng import generator


def net(classes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, classes))


def rows(n: int, seed: int, classes: int) -> Samples:
    rng = generator(seed)
    y = torch.arange(n) % classes
    x = 0.2 + 0.5 * nn.functional.one_hot(y, 6).float() + 0.1 * torch.rand(n, 6, generator=rng)
    return Samples(x, y, classes)


def train_many(jobs, /, *, tick) -> list[Classifier]:
    return [recipe(data, rng=generator(seed)) for recipe, data, seed in jobs]


def bench(tmp_path, classes: int = 5, recipe: bool = True, train: Samples | None = None) -> Bench:
    train = rows(200, 0, classes) if train is None else train
    plan = Recipe(partial(net, classes), "two layers", epochs=20, batch=20, lr=1e-2)
    target = Classifier(net(classes), classes, (6,))
    return Bench(
        target,
        Prepared(target),
        rows(100, 1, classes),
        train,
        plan if recipe else None,
        train_many,
        Store(tmp_path),
    )


def fake(attack) -> Entry:
    entry = find("targeted.influence")
    return Entry(**{**vars(entry), "run": attack})


def copies(workshop, aims, budget, /, *, rng, tick, **params):
    """Cheat: put the aim itself, under the label wished for, into every row of that class."""
    made = []
    for x, wish in zip(aims.x, aims.wish, strict=True):
        taken = (workshop.clean.y == wish).nonzero().flatten()[: budget.poisons]
        made.append(Poison(taken, x.expand(len(taken), *x.shape).clone(), wish.expand(len(taken))))
    return made


def nothing(workshop, aims, budget, /, *, rng, tick, **params):
    """Return the rows as they were."""
    clean = workshop.clean
    return [Poison(torch.arange(3), clean.x[:3].clone(), clean.y[:3]) for _ in range(len(aims))]


def answer(bench: Bench, attack, budget: Tampering, count: int = 20):
    case = Case(method="targeted.influence", version=1, data="six values", rows=count, budget=budget)
    return measure(fake(attack), case, bench, ignore)


def test_a_poison_is_cut_to_whole_grey_levels_within_the_ball() -> None:
    clean = Samples((torch.rand(5, 6, generator=generator(0)) * 255).round() / 255, torch.arange(5) % 2, 2)
    taken = torch.tensor([1, 3, 4])
    wild = Poison(taken, torch.full((3, 6), 7.0), torch.tensor([0, 0, 1]))
    made = in_budget(wild, clean, Tampering(poisons=2, eps=0.1))
    assert made.rows.tolist() == [1, 3], "one row more than allowed"
    assert made.y.tolist() == [1, 1], "labels are those that the rows had"
    assert float((made.x - clean.x[made.rows]).abs().max()) <= 25 / 255 + 1e-6, "0.1 is 25.5 grey levels"
    assert float(made.x.max()) <= 1
    torch.testing.assert_close(made.x * 255, (made.x * 255).round(), atol=1e-4, rtol=0)


def test_copies_of_the_aim_succeed_and_no_change_never_does(tmp_path) -> None:
    """Twenty of forty rows that are the aim itself outweigh its true neighbours in a convex head."""
    budget = Tampering(poisons=20, eps=1, per_class=20)
    strong, idle = (answer(bench(tmp_path), attack, budget) for attack in (copies, nothing))
    assert strong.metrics["attack_success"].value >= 0.9
    assert strong.metrics["attack_success"].n == 20
    assert idle.metrics["attack_success"].value == 0, "aims are rows that the clean victim gets right"
    assert idle.metrics["accuracy_drop"].value == 0
    assert strong.notes["extractor"] == "trained on the rows of all other classes, 120 rows"


def test_victims_from_scratch_have_a_clean_rival_of_another_start(tmp_path) -> None:
    found = answer(bench(tmp_path), nothing, Tampering(poisons=3, eps=0.1, victim="scratch"), count=3)
    assert found.clean["attack_success"].n == 3
    assert [flag.code for flag in found.flags] == ["few-victims"]


def test_few_classes_leave_the_extractor_the_other_half_of_the_rows(tmp_path) -> None:
    found = answer(bench(tmp_path, classes=3), nothing, Tampering(poisons=3, eps=0.1, per_class=10), count=5)
    assert found.notes["extractor"] == "trained on the other half of the rows, 100 rows"


def test_pictures_stand_beside_their_bases(tmp_path) -> None:
    found = answer(bench(tmp_path), copies, Tampering(poisons=2, eps=0.1, per_class=20), count=4)
    assert found.tensors["gallery_x"].shape == found.tensors["gallery_adv"].shape
    moved = (found.tensors["gallery_adv"] - found.tensors["gallery_x"]).abs().max()
    assert 0 < float(moved) <= 0.1
    assert found.tensors["poison_x"].shape == (4, 2, 6)


def test_a_case_without_a_budget_is_refused(tmp_path) -> None:
    case = Case(method="targeted.influence", version=1, data="six values", rows=5)
    with pytest.raises(NotApplicable, match="budget"):
        measure(fake(nothing), case, bench(tmp_path), ignore)


def test_one_class_or_no_recipe_is_refused_by_name(tmp_path) -> None:
    budget = Tampering(poisons=1, eps=0.1)
    one = rows(40, 0, 5)
    one = Samples(one.x, torch.zeros_like(one.y), 5)
    with pytest.raises(NotApplicable, match="two classes"):
        answer(bench(tmp_path, train=one), nothing, budget)
    with pytest.raises(NotApplicable, match="recipe"):
        answer(bench(tmp_path, recipe=False), nothing, budget)


def test_victims_from_scratch_are_trained_on_what_a_screening_keeps(tmp_path, monkeypatch):
    """First on all rows, for screenings that ask a victim; then on the rows kept, with the same seeds."""
    trained = []

    def note(jobs, /, *, tick):
        trained.append([(len(data), seed) for _, data, seed in jobs])
        return [Classifier(net(5), 5, (6,)) for _ in jobs]

    known = find("screening.deep_knn")
    entry = Entry(**{**vars(known), "run": lambda model, data, **_: data.y > 0})
    monkeypatch.setattr(targeted, "find", lambda name: entry)
    stand = replace(bench(tmp_path), train_many=note)
    case = Case(
        method="targeted.influence", version=1, data="six values", rows=2, defences=("screening.deep_knn",)
    )
    sets = [rows(200, 0, 5), rows(100, 1, 5)]
    targeted._defended(case, stand, stand.recipe, sets, [7, 8], ignore)
    assert trained == [[(200, 7), (100, 8)], [(160, 7), (80, 8)]]


def test_victims_with_frozen_features_are_not_screened(tmp_path):
    case = Case(
        method="targeted.influence", version=1, data="six values", rows=20,
        budget=Tampering(poisons=3, eps=0.1, per_class=20), defences=("screening.deep_knn",),
    )  # fmt: skip
    with pytest.raises(NotApplicable, match="from scratch"):
        measure(fake(copies), case, bench(tmp_path), ignore)
