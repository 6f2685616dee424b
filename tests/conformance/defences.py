"""What defences must keep: training, screening, repair and scanning, one function per promise."""

import contextlib
import pickle
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from casemate.core.data import Samples
from casemate.core.errors import Cancelled, CasemateError, NotApplicable
from casemate.core.recipe import Recipe
from casemate.core.registry import Entry
from casemate.core.scanning import Traces
from casemate.core.target import Classifier
from casemate.core.tick import Tick, ignore
from conformance import models
from conformance.bystanders import bits, generator, stop, untouched

# what a check returns is a number worth reporting
Check = Callable[[Entry], str | None]
CHECKS: dict[str, list[Check]] = {"training": [], "screening": [], "repair": [], "scanning": []}
# largest share of clean rows that a screening may drop on average, by number of classes: among few
# classes none stands out as suspicious
# STRIP adds pictures: a patch must show through them, and the net must not be too sure of itself
PLANTED = {"screening.strip": "patch on dark"}
FALSE_POSITIVES = {3: 0.4, 7: 0.1}


def check(family: str) -> Callable[[Check], Check]:
    """Add a promise to the battery of a family."""

    def keep(function: Check) -> Check:
        CHECKS[family].append(function)
        return function

    return keep


def quick(entry: Entry, **params: Any) -> dict[str, Any]:
    """Parameters with every count reduced."""
    fields = entry.params.model_fields
    return entry.validate(
        {n: 5 for n, f in fields.items() if type(f.default) is int and f.default > 5} | params
    )


# --- nets and data --------------------------------------------------------------------------------


def make_mlp(size: int = 7, classes: int = 3) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(size, 16), nn.ReLU(), nn.Linear(16, classes))


def make_conv(channels: int = 1, classes: int = 3) -> nn.Module:
    """Batch normalisation and a pooling that takes any size of picture."""
    return nn.Sequential(
        nn.Conv2d(channels, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes),
    )  # fmt: skip


class Odd(nn.Module):
    """An architecture that nobody foresaw: no Sequential, shared layers, names of its own (R6)."""

    def __init__(self, classes: int = 7) -> None:
        super().__init__()
        self.eye = nn.Conv2d(1, 5, (5, 3), stride=3)
        self.thought = nn.Conv2d(5, 5, 3, padding=1)
        self.word = nn.Linear(5, classes)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.eye(x))
        h = h + torch.relu(self.thought(h)) + torch.relu(self.thought(h.flip(-1)))
        return self.word(h.amax((2, 3)))


def patterns(n: int, shape: tuple[int, ...], classes: int, seed: int = 0) -> Samples:
    """Noisy copies of one prototype per class."""
    prototypes = torch.rand(classes, *shape, generator=generator(50))
    y = torch.arange(n) % classes
    x = prototypes[y] + 0.15 * torch.randn(n, *shape, generator=generator(seed))
    return Samples(x.clamp(0, 1), y, classes)


def fit(make: Callable[[], nn.Module], data: Samples, steps: int = 60, seed: int = 0) -> Classifier:
    """Train a net in a moment."""
    with models.seeded(seed):
        net = make().train()
    optimiser = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(steps):
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(data.x), data.y).backward()
        optimiser.step()
    net.eval().zero_grad(set_to_none=True)
    return Classifier(net, data.classes, data.shape)


@cache
def picture_setting() -> tuple[Classifier, Samples]:
    data = patterns(90, (1, 8, 8), 3)
    return fit(make_conv, data), data


def settings() -> list[tuple[Classifier, Samples]]:
    """Trained nets of several architectures with their data; pictures first."""
    table, two = patterns(60, (7,), 3), patterns(60, (3, 9, 11), 2)
    odd = patterns(70, (1, 40, 56), 7)
    return [
        picture_setting(),
        (fit(lambda: make_conv(3, 2), two, 30), two),
        (fit(make_mlp, table), table),
        (fit(Odd, odd, 10), odd),
    ]


def accuracy(model: Classifier, data: Samples) -> float:
    return float((model.predict(data.x).argmax(1) == data.y).double().mean())


def as_handed_over(model: Classifier) -> Classifier:
    """Leave the net as a user might: partly training, partly frozen, with a gradient."""
    net = pickle.loads(pickle.dumps(model.net))
    net.train()
    net[4].eval()
    net[0].weight.requires_grad_(False)
    net[3].weight.grad = torch.ones_like(net[3].weight)
    return Classifier(net, model.classes, model.shape)


# --- training -------------------------------------------------------------------------------------


def recipe(make: Callable[[], nn.Module] = make_conv) -> Recipe:
    return Recipe(make, "tiny", epochs=3, batch=16, lr=0.02)


@check("training")
def returns_another_recipe(entry: Entry) -> None:
    """The recipe given stays as it is; the new one is told apart by its digest."""
    given = recipe()
    before = given.digest()
    changed = entry.run(given, **quick(entry))
    assert isinstance(changed, Recipe)
    assert changed is not given
    assert (given.digest(), given) == (before, recipe())
    assert changed.digest() != before
    assert changed.digest() == entry.run(recipe(), **quick(entry)).digest(), "equal settings, equal digest"


@check("training")
def counts_every_parameter_in_the_digest(entry: Entry) -> None:
    """Results of one setting must not be taken for those of another."""
    base = quick(entry)
    for name, value in base.items():
        if type(value) in (int, float):
            other = entry.validate(base | {name: value + 1 if type(value) is int else value * 1.5 or 0.5})
            digests = {entry.run(recipe(), **params).digest() for params in (base, other)}
            assert len(digests) == 2, f"'{name}' does not change the digest"


@check("training")
def can_be_sent_to_workers(entry: Entry) -> None:
    changed = entry.run(recipe(), **quick(entry))
    assert pickle.loads(pickle.dumps(changed)).digest() == changed.digest()


@check("training")
def has_a_loss_to_learn_from(entry: Entry) -> None:
    """For any shape: a finite number with a slope in the weights, and nothing left behind.

    Layers that nobody foresaw may be refused, by name.
    """
    for make, shape, classes in ((make_conv, (1, 8, 8), 3), (make_mlp, (7,), 3), (Odd, (1, 40, 56), 7)):
        data = patterns(6, shape, classes)
        changed = entry.run(recipe(make), **quick(entry))
        with models.seeded(1):
            net = changed.make()
        before, x = models.state(net), bits(data.x, data.y)
        with untouched():
            try:
                loss = entry.run(recipe(make), **quick(entry)).batch_loss(
                    net, data.x, data.y, rng=generator()
                )
            except NotApplicable as error:
                if make is Odd and "Odd" in str(error):
                    continue
                raise
        assert loss.shape == ()
        assert loss.isfinite()
        assert bits(data.x, data.y) == x, "the loss writes into its batch"
        after = models.state(net)
        # batch statistics may follow the batch: that is what training does
        changed = {name for name in before if after[name] != before[name] and "running" not in name}
        assert all("num_batches_tracked" in name for name in changed), changed
        grads = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True)
        assert any(g is not None and g.abs().sum() > 0 for g in grads)


@check("training")
def takes_its_random_numbers_from_the_stream(entry: Entry) -> None:
    data = patterns(6, (1, 8, 8), 3)
    changed = entry.run(recipe(), **quick(entry))
    with models.seeded(1):
        net = changed.make().eval()
    loss = changed.batch_loss
    first, second = (loss(net, data.x, data.y, rng=generator(3)) for _ in range(2))
    assert torch.equal(first, second)


@check("training")
def puts_modes_back_after_an_error(entry: Entry) -> None:
    """A net that raises in the middle of the loss is as it was, so that training can be resumed."""
    data = patterns(6, (1, 8, 8), 3)
    changed = entry.run(recipe(), **quick(entry))
    loss = changed.batch_loss
    for fatal in (1, 2, 3):
        with models.seeded(1):
            net = changed.make()
        inner = next(m for m in net.modules() if isinstance(m, nn.Sequential))
        inner[0].weight.requires_grad_(False)
        calls = 0

        def fail(*_: object, fatal: int = fatal) -> None:
            nonlocal calls
            calls += 1
            if calls == fatal:
                raise Cancelled("enough")

        hook = inner[-1].register_forward_hook(fail)
        modes = [(m.training, *(p.requires_grad for p in m.parameters())) for m in net.modules()]
        with contextlib.suppress(Cancelled):
            loss(net, data.x, data.y, rng=generator())
        hook.remove()
        assert [(m.training, *(p.requires_grad for p in m.parameters())) for m in net.modules()] == modes


@check("training")
def trains_a_classifier(entry: Entry) -> None:
    """The changed recipe still learns easy classes, the same way for the same stream."""
    data = patterns(96, (1, 8, 8), 3)
    changed = entry.run(recipe(), **quick(entry))
    first, second = (changed(data, rng=generator(5)) for _ in range(2))
    assert accuracy(first, data) > 0.6
    assert torch.equal(first.predict(data.x), second.predict(data.x))


# --- screening ------------------------------------------------------------------------------------


def screen(entry: Entry, model: Classifier, data: Samples, seed: int = 0, tick: Tick = ignore) -> Tensor:
    """Run a screening and check the form of what it returns."""
    keep = entry.run(model, data, rng=generator(seed), tick=tick, **quick(entry))
    assert keep.shape == (len(data),)
    assert keep.dtype == torch.bool
    return keep


@check("screening")
def chooses_rows_of_any_data(entry: Entry) -> None:
    """Any architecture, shape and number of classes; pictures are never refused (pitfall R6)."""
    for i, (model, data) in enumerate(settings()):
        try:
            screen(entry, model, data)
        except NotApplicable:
            assert i > 0


@check("screening")
def takes_lopsided_data(entry: Entry) -> None:
    """Classes of one row or none, and no rows at all: no worse than a named error (pitfall R7)."""
    model, data = picture_setting()
    few = torch.cat([(data.y == 0).nonzero().flatten(), (data.y == 1).nonzero().flatten()[:1]])
    same = Samples(data.x[:1].repeat(12, 1, 1, 1), data.y[:1].repeat(12), 3)
    for rows in (data[few], data[:1], data[:0], same):
        with contextlib.suppress(CasemateError):
            screen(entry, model, rows)


@check("screening")
def keeps_most_clean_rows(entry: Entry) -> str:
    """On twenty models trained on clean data, few rows are dropped; the share is reported (pitfall R7)."""
    shares = {}
    for classes, most in FALSE_POSITIVES.items():
        dropped = []
        for seed in range(20):
            data = patterns(20 * classes, (1, 8, 8), classes, seed)
            model = fit(lambda classes=classes: make_conv(1, classes), data, 12, seed)
            dropped.append(float((~screen(entry, model, data, seed)).double().mean()))
        shares[classes] = sum(dropped) / 20
        assert shares[classes] <= most, (
            f"{shares[classes]:.0%} of the clean rows of {classes} classes are dropped"
        )
    return ", ".join(
        f"{share:.1%} of the clean rows of {k} classes are dropped" for k, share in shares.items()
    )


@check("screening")
def drops_planted_rows_first(entry: Entry) -> str:
    """Rows of another class with a wrong label are dropped more often than clean ones.

    Those with a patch are each other's neighbours, for methods that answer backdoors; those without have
    to be learnt by heart, for the others.
    """
    usual = "patch" if "backdoor" in entry.answers else "no patch"
    kind = PLANTED.get(entry.id, usual)
    model, data, planted = planted_setting(kind)
    dropped = ~screen(entry, model, data)
    caught, lost = float(dropped[planted].double().mean()), float(dropped[~planted].double().mean())
    assert caught > 0.5, f"only {caught:.0%} of the planted rows ({kind}) are dropped"
    assert caught > 2 * lost, f"{lost:.0%} of the clean rows are dropped"
    return f"{caught:.0%} of the planted rows ({kind}) are dropped"


@cache
def planted_setting(kind: str) -> tuple[Classifier, Samples, Tensor]:
    clean = patterns(240, (1, 8, 8), 3)
    planted = torch.zeros(240, dtype=torch.bool)
    planted[(clean.y == 1).nonzero().flatten()[:12]] = True
    x, y = clean.x * (0.15 if "dark" in kind else 1.0), clean.y.clone()
    if kind != "no patch":
        x[planted, :, :4, :4] = (torch.arange(4)[:, None] + torch.arange(4)).remainder(2).float()
    y[planted] = 0
    data = Samples(x, y, 3)
    steps = {"patch": 150, "patch on dark": 15, "no patch": 30}
    return fit(lambda: make_mlp(64), data, steps[kind]), data, planted


@check("screening")
def leaves_everything_alone(entry: Entry) -> None:
    model, data = picture_setting()
    model = as_handed_over(model)
    before, rows = models.state(model.net), bits(data.x, data.y)
    with untouched():
        screen(entry, model, data)
    assert models.state(model.net) == before
    with contextlib.suppress(Cancelled):
        screen(entry, model, data, tick=stop)
    assert models.state(model.net) == before, "changed after a tick that raised"
    assert bits(data.x, data.y) == rows


@check("screening")
def repeats_its_choice(entry: Entry) -> None:
    """Whatever mode the net is in and whatever the global generators say."""
    model, data = picture_setting()
    model = replace(model, net=pickle.loads(pickle.dumps(model.net)))
    # so that batch statistics and running statistics tell apart
    model.net[1].running_mean += torch.arange(6) / 3
    first = screen(entry, model, data)
    with models.seeded(5):
        assert torch.equal(screen(entry, model, data), first)
    training = as_handed_over(model)
    assert torch.equal(screen(entry, training, data), first)


# --- repair ---------------------------------------------------------------------------------------


def mend(entry: Entry, model: Classifier, clean: Samples, seed: int = 0, tick: Tick = ignore) -> Classifier:
    """Run a repair and check the form of what it returns."""
    mended = entry.run(model, clean, rng=generator(seed), tick=tick, **quick(entry))
    assert isinstance(mended, Classifier)
    assert (mended.classes, mended.shape, mended.bounds) == (model.classes, model.shape, model.bounds)
    assert (mended.mean, mended.std, mended.outputs) == (model.mean, model.std, model.outputs)
    assert mended.predict(clean.x).isfinite().all()
    return mended


@check("repair")
def mends_any_net(entry: Entry) -> None:
    """Any architecture, shape and number of classes; pictures are never refused (pitfall R6)."""
    for i, (model, data) in enumerate(settings()):
        try:
            mend(entry, model, data)
        except NotApplicable:
            assert i > 0


@check("repair")
def takes_very_little_data(entry: Entry) -> None:
    """A few rows, one class, one row, no rows: no worse than a named error."""
    model, data = picture_setting()
    for rows in (data[:4], data[data.y == 0], data[:1], data[:0]):
        with contextlib.suppress(CasemateError):
            mend(entry, model, rows)


@check("repair")
def keeps_the_clean_accuracy(entry: Entry) -> None:
    model, data = picture_setting()
    assert accuracy(mend(entry, model, data), data) >= accuracy(model, data) - 0.1


@check("repair")
def leaves_the_given_model_alone(entry: Entry) -> None:
    """The mended net is another one, also when the work is stopped half way."""
    model, data = picture_setting()
    model = as_handed_over(model)
    before, rows = models.state(model.net), bits(data.x, data.y)
    with untouched():
        mended = mend(entry, model, data)
    assert models.state(model.net) == before
    assert bits(data.x, data.y) == rows
    own = {p.data_ptr() for p in model.net.state_dict().values()}
    assert not own & {p.data_ptr() for p in mended.net.state_dict().values()}, "weights are shared"
    with contextlib.suppress(Cancelled):
        mend(entry, model, data, tick=stop)
    assert models.state(model.net) == before, "changed after a tick that raised"


@check("repair")
def repeats_its_mending(entry: Entry) -> None:
    model, data = picture_setting()
    first, second = (mend(entry, model, data, 3).predict(data.x) for _ in range(2))
    assert torch.equal(first, second)


@check("repair")
def stops_when_a_tick_raises(entry: Entry) -> None:
    model, data = picture_setting()
    with pytest.raises(Cancelled, match="enough"):
        mend(entry, model, data, tick=stop)


# --- scanning -------------------------------------------------------------------------------------


def scan(entry: Entry, model: Classifier, clean: Samples, seed: int = 0, tick: Tick = ignore) -> Traces:
    """Run a scanning and check the form of what it returns."""
    found = entry.run(model, clean, rng=generator(seed), tick=tick, **quick(entry))
    assert isinstance(found, Traces)
    for values in (found.evidence, found.flagged, found.size, found.success):
        assert values.shape == (model.classes,)
        assert values.isfinite().all()
    assert found.flagged.dtype == torch.bool
    assert ((found.success >= 0) & (found.success <= 1)).all()
    assert len(found.triggers) == model.classes
    assert found.passes > 0
    for trigger in found.triggers:
        marked = trigger(clean.x[:3])
        assert marked.shape == clean.x[:3].shape
        assert ((marked >= 0) & (marked <= 1)).all()
    return found


@check("scanning")
def scans_any_net(entry: Entry) -> None:
    """Any architecture, shape and number of classes; pictures are never refused (pitfall R6)."""
    for i, (model, data) in enumerate(settings()):
        try:
            scan(entry, model, data)
        except NotApplicable:
            assert len(data.shape) != 3, f"setting {i} are pictures"


@check("scanning")
def measures_the_success_of_its_triggers_itself(entry: Entry) -> None:
    """The share of clean rows of other classes that a trigger steers, counted again (pitfall R5)."""
    model, data = picture_setting()
    found = scan(entry, model, data)
    for c, trigger in enumerate(found.triggers):
        steered = model.predict(trigger(data.x[data.y != c])).argmax(1) == c
        assert abs(float(found.success[c]) - float(steered.double().mean())) < 0.02


@check("scanning")
def scans_very_little_data(entry: Entry) -> None:
    """A few rows, one class, one row, no rows: no worse than a named error (pitfall R7)."""
    model, data = picture_setting()
    for rows in (data[:4], data[data.y == 0], data[:1], data[:0]):
        with contextlib.suppress(CasemateError):
            scan(entry, model, rows)


@check("scanning")
def calls_few_clean_models_backdoored(entry: Entry) -> str:
    """On twenty models trained on clean data; the share is reported (pitfall R7).

    Steps are few here; what the scannings' defaults flag of trained models is measured on the zoo.
    """
    flagged = []
    for seed in range(20):
        data = patterns(98, (1, 8, 8), 7, seed)
        model = fit(lambda: make_conv(1, 7), data, 12, seed)
        flagged.append(scan(entry, model, data, seed).suspect is not None)
    assert sum(flagged) <= 4, f"{sum(flagged)} of 20 clean models are called backdoored"
    return f"{sum(flagged)} of 20 clean models of 7 classes are called backdoored, after five steps"


@check("scanning")
def leaves_the_scanned_model_alone(entry: Entry) -> None:
    model, data = picture_setting()
    model = as_handed_over(model)
    before, rows = models.state(model.net), bits(data.x, data.y)
    with untouched():
        scan(entry, model, data)
    assert models.state(model.net) == before
    with contextlib.suppress(Cancelled):
        scan(entry, model, data, tick=stop)
    assert models.state(model.net) == before, "changed after a tick that raised"
    assert bits(data.x, data.y) == rows


@check("scanning")
def repeats_its_scan(entry: Entry) -> None:
    """Whatever mode the net is in and whatever the global generators say."""
    model, data = picture_setting()
    first = scan(entry, model, data, 3)
    with models.seeded(5):
        again = scan(entry, as_handed_over(model), data, 3)
    for name in ("evidence", "size", "success", "flagged"):
        assert torch.equal(getattr(first, name), getattr(again, name)), name


@check("scanning")
def stops_scanning_when_a_tick_raises(entry: Entry) -> None:
    model, data = picture_setting()
    with pytest.raises(Cancelled, match="enough"):
        scan(entry, model, data, tick=stop)
