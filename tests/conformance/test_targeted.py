"""Every registered targeted poison keeps every promise, on nets of a few weights."""

import contextlib
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from casemate.core.data import Poison, Samples
from casemate.core.errors import Cancelled, CasemateError, NotApplicable
from casemate.core.recipe import Recipe
from casemate.core.registry import Entry, entries
from casemate.core.tampering import Tampering
from casemate.core.target import Classifier
from casemate.core.tick import Tick, ignore
from casemate.core.workshop import Aims, Workshop
from conformance.bystanders import bits, generator, stop, untouched

METHODS = entries("targeted")
# gradient matching looks at all weights, whatever the last layer is
CUT = [e for e in METHODS if e.id != "targeted.gradient_matching"]
EACH = pytest.mark.parametrize("entry", METHODS, ids=lambda e: e.id)
BUDGET = Tampering(poisons=3, eps=0.1)


def samples(n: int = 40, classes: int = 3, shape: tuple[int, ...] = (1, 8, 8), seed: int = 0) -> Samples:
    """Random pictures with every class in turn; some values are exactly 0 or 1."""
    x = (1.4 * torch.rand(n, *shape, generator=generator(seed)) - 0.2).clamp(0, 1)
    return Samples(x, torch.arange(n) % classes, classes)


def net(shape: tuple[int, ...], classes: int, seed: int, norm: bool = False) -> nn.Sequential:
    """A net with a hidden layer, of weights that the seed gives."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers: list[nn.Module] = [nn.Flatten(), nn.Linear(int(torch.Size(shape).numel()), 12)]
        return nn.Sequential(*layers, *[nn.BatchNorm1d(12)] * norm, nn.ReLU(), nn.Linear(12, classes))


def workshop(clean: Samples, norm: bool = False, models: Sequence[Classifier] | None = None) -> Workshop:
    """A workshop whose surrogates are nets as they were made."""

    def surrogates(count: int) -> Sequence[Classifier]:
        made = [
            Classifier(net(clean.shape, clean.classes, i, norm).to(clean.x.dtype), clean.classes, clean.shape)
            for i in range(count)
        ]
        return models[:count] if models is not None else made

    make = partial(net, clean.shape, clean.classes, 0)
    return Workshop(clean, Recipe(make, "tiny"), surrogates)


def aims(clean: Samples, count: int = 4) -> Aims:
    """Inputs like the clean ones, each with the next class wished for."""
    like = samples(count, clean.classes, clean.shape, seed=9)
    return Aims(like.x.to(clean.x.dtype), like.y, (like.y + 1) % clean.classes)


def quick(entry: Entry, **params: Any) -> dict[str, Any]:
    """Parameters with every count of steps reduced."""
    few = {
        name: min(5, field.default) for name, field in entry.params.model_fields.items() if name == "steps"
    }
    return entry.validate({**few, **params})


def craft(
    entry: Entry, clean: Samples, budget: Tampering = BUDGET, wanted: Aims | None = None, seed: int = 0,
    tick: Tick = ignore, shop: Workshop | None = None, **params: Any,
) -> Sequence[Poison]:  # fmt: skip
    wanted = aims(clean) if wanted is None else wanted
    shop = workshop(clean) if shop is None else shop
    made: Sequence[Poison] = entry.run(
        shop, wanted, budget, rng=generator(seed), tick=tick, **quick(entry, **params)
    )
    assert len(made) == len(wanted), "one poison per aim"
    return made


def well_formed(made: Sequence[Poison], clean: Samples, budget: Tampering) -> None:
    """Assert that poisons are clean-label, in the ball and in the box."""
    for poison in made:
        rows = poison.rows.tolist()
        assert len(set(rows)) == len(rows) <= budget.poisons
        assert all(0 <= row < len(clean) for row in rows)
        assert poison.x.shape == (len(rows), *clean.shape)
        assert poison.x.dtype == clean.x.dtype
        assert not poison.x.requires_grad
        assert torch.equal(poison.y, clean.y[poison.rows]), "labels are not to be touched"
        assert bool(((poison.x >= 0) & (poison.x <= 1)).all())
        change = (poison.x.double() - clean.x[poison.rows].double()).abs()
        assert not change.numel() or float(change.max()) <= budget.eps + 1e-6
        assert poison.trigger is None


@EACH
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_poisons_are_within_the_budget_and_keep_their_labels(entry: Entry, classes: int) -> None:
    clean = samples(classes=classes)
    made = craft(entry, clean)
    well_formed(made, clean, BUDGET)
    assert all(len(poison.rows) == BUDGET.poisons for poison in made)
    assert any(bool((p.x != clean.x[p.rows]).any()) for p in made)


@EACH
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 7), (7,)])
def test_any_shape_and_double_precision_will_do(entry: Entry, shape: tuple[int, ...]) -> None:
    clean = samples(shape=shape)
    well_formed(craft(entry, clean), clean, BUDGET)
    double = Samples(clean.x.double(), clean.y, clean.classes)
    well_formed(craft(entry, double), double, BUDGET)


@EACH
def test_zero_radius_changes_nothing(entry: Entry) -> None:
    clean = samples()
    for poison in craft(entry, clean, Tampering(poisons=3, eps=0)):
        assert torch.equal(poison.x, clean.x[poison.rows])


@EACH
def test_no_poisons_no_aims_and_no_rows_are_answered_with_nothing(entry: Entry) -> None:
    clean = samples()
    assert all(len(p.rows) == 0 for p in craft(entry, clean, Tampering(poisons=0, eps=0.1)))
    assert list(craft(entry, clean, wanted=aims(clean, 0))) == []
    nothing = craft(entry, clean[:0], wanted=aims(clean), shop=workshop(clean[:0]))
    assert all(len(p.rows) == 0 for p in nothing)


@EACH
def test_more_poisons_than_rows_take_what_there_is(entry: Entry) -> None:
    clean, many = samples(6), Tampering(poisons=50, eps=0.1)
    well_formed(craft(entry, clean, many), clean, many)


@EACH
def test_a_class_without_rows_is_no_worse_than_a_named_error(entry: Entry) -> None:
    one = Samples(samples(6).x, torch.zeros(6, dtype=torch.int64), 3)
    with contextlib.suppress(CasemateError):
        well_formed(craft(entry, one), one, BUDGET)


@EACH
def test_data_aims_models_and_global_state_are_left_alone(entry: Entry) -> None:
    clean = samples()
    wanted = aims(clean)
    own = [Classifier(net(clean.shape, 3, i, norm=True), 3, clean.shape) for i in range(3)]
    tensors: list[Tensor] = [clean.x, clean.y, wanted.x, wanted.y, wanted.wish]
    tensors += [t for model in own for t in model.net.state_dict().values()]
    before, modes = bits(*tensors), [m.training for model in own for m in model.net.modules()]
    with untouched():
        made = craft(entry, clean, wanted=wanted, shop=workshop(clean, models=own))
    for poison in made:
        poison.x.zero_()
    assert bits(*tensors) == before
    assert [m.training for model in own for m in model.net.modules()] == modes
    assert all(p.grad is None and p.requires_grad for model in own for p in model.net.parameters())


@EACH
def test_the_same_seed_gives_the_same_poisons(entry: Entry) -> None:
    clean = samples()
    first, again = (craft(entry, clean, seed=4) for _ in range(2))
    for a, b in zip(first, again, strict=True):
        assert bits(a.rows, a.x) == bits(b.rows, b.x)


@EACH
def test_nets_with_batch_normalisation_will_do(entry: Entry) -> None:
    clean = samples()
    well_formed(craft(entry, clean, shop=workshop(clean, norm=True)), clean, BUDGET)


@pytest.mark.parametrize("entry", CUT, ids=lambda e: e.id)
def test_a_net_without_a_linear_head_is_refused_by_name(entry: Entry) -> None:
    clean = samples()
    whole = nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten())
    shop = workshop(clean, models=[Classifier(whole, 3, clean.shape)] * 9)
    with pytest.raises(NotApplicable, match="linear layer"):
        craft(entry, clean, shop=shop)


@EACH
def test_a_raising_tick_ends_the_work(entry: Entry) -> None:
    with pytest.raises(Cancelled, match="enough"):
        craft(entry, samples(), tick=stop)
