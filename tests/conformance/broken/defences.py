"""Defences that keep every promise, and the same with one defect each."""

import copy
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Gt
from torch import Generator, Tensor, nn

from casemate.core import registry
from casemate.core.data import Samples
from casemate.core.errors import Cancelled, NotApplicable
from casemate.core.recipe import BatchLoss, Recipe, cross_entropy
from casemate.core.registry import Entry
from casemate.core.scanning import Traces
from casemate.core.target import Classifier
from casemate.core.tick import Tick, ignore
from casemate.core.triggers import Mixed
from conformance import defences
from conformance.defences import Check
from conformance.toys import PAPER, entry_of

BROKEN: dict[Check, list[Entry]] = defaultdict(list)


@dataclass(frozen=True)
class Noisy:
    """Cross-entropy of inputs with noise."""

    scale: float

    def __call__(self, net: nn.Module, x: Tensor, y: Tensor, /, *, rng: Generator) -> Tensor:
        return cross_entropy(net, x + self.scale * torch.randn(x.shape, generator=rng), y, rng=rng)


def noise(recipe: Recipe, /, *, scale: Annotated[float, Gt(0)] = 0.1) -> Recipe:
    """Train on noisy inputs.

    Args:
        scale: standard deviation of the noise, in units of x.
    """
    return replace(recipe, batch_loss=Noisy(scale))


def residuals(model: Classifier, data: Samples, /, *, rng: Generator, tick: Tick = ignore) -> Tensor:
    """Keep the nine tenths of the rows of each class that lie nearest its median input."""
    keep = torch.ones(len(data), dtype=torch.bool)
    for label in range(data.classes):
        rows = (data.y == label).nonzero().flatten()
        if len(rows) > 5:
            far = (data.x[rows] - data.x[rows].median(0).values).flatten(1).norm(dim=1)
            keep[rows[far.topk(len(rows) // 11).indices]] = False
        tick(label + 1, data.classes, {})
    return keep


def shrink(model: Classifier, clean: Samples, /, *, rng: Generator, tick: Tick = ignore) -> Classifier:
    """Shrink every weight a little."""
    net = copy.deepcopy(model.net)
    with torch.no_grad():
        for weight in net.parameters():
            weight.mul_(0.999)
    tick(1, 1, {})
    return replace(model, net=net)


def nearest(model: Classifier, clean: Samples, /, *, rng: Generator, tick: Tick = ignore) -> Traces:
    """Blend half of a class's mean picture in, and say how often that steers."""
    shares, triggers = [], []
    if not len(clean):
        raise NotApplicable("there are no rows")
    for c in range(model.classes):
        own = clean.x[clean.y == c]
        trigger = Mixed((own if len(own) else clean.x).mean(0), 0.5)
        rows = clean.x[clean.y != c]
        steered = model.predict(trigger(rows if len(rows) else clean.x)).argmax(1) == c
        shares.append(steered.float().mean())
        triggers.append(trigger)
        tick(c + 1, model.classes, {})
    success = torch.stack(shares)
    flagged = torch.zeros(model.classes, dtype=torch.bool)
    size = torch.ones(model.classes)
    return Traces(success - success.median(), flagged, size, success, tuple(triggers), "pictures", len(clean))


def _entry(family: str, run: Callable[..., Any]) -> Entry:
    return entry_of(getattr(registry, family)(papers=(PAPER,)), run)


CORRECT = (
    _entry("training", noise),
    _entry("screening", residuals),
    _entry("repair", shrink),
    _entry("scanning", nearest),
)


def breaks(promise: Check) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a defence of a defect and say which promise it breaks."""
    family = next(f for f, checks in defences.CHECKS.items() if promise in checks)

    def training(recipe: Recipe, /) -> Recipe:
        """Train with a defect."""

    def screening(model: Classifier, data: Samples, /, *, rng: Generator, tick: Tick = ignore) -> Tensor:
        """Screen with a defect."""

    def repair(model: Classifier, clean: Samples, /, *, rng: Generator, tick: Tick = ignore) -> Classifier:
        """Mend with a defect."""

    def scanning(model: Classifier, clean: Samples, /, *, rng: Generator, tick: Tick = ignore) -> Traces:
        """Scan with a defect."""

    form = {"training": training, "screening": screening, "repair": repair, "scanning": scanning}[family]

    def keep(defect: Callable[..., Any]) -> Callable[..., Any]:
        if not defect.__annotations__:
            defect.__annotations__ = dict(form.__annotations__)
        BROKEN[promise].append(_entry(family, defect))
        return defect

    return keep


# --- training -------------------------------------------------------------------------------------


@breaks(defences.returns_another_recipe)
def changes_the_recipe_in_place(recipe, /):
    object.__setattr__(recipe, "batch_loss", Noisy(0.1))
    return recipe


@breaks(defences.returns_another_recipe)
def makes_a_loss_without_a_name(recipe, /):
    """A closure has the same name whatever the recipe, so the digest is that of no defence."""
    return replace(recipe, epochs=recipe.epochs)


@breaks(defences.counts_every_parameter_in_the_digest)
def hides_a_parameter(recipe: Recipe, /, *, scale: Annotated[float, Gt(0)] = 0.1) -> Recipe:
    """Train on noisy inputs.

    Args:
        scale: standard deviation of the noise, in units of x.
    """

    def loss(net: nn.Module, x: Tensor, y: Tensor, /, *, rng: Generator) -> Tensor:
        return Noisy(scale)(net, x, y, rng=rng)

    return replace(recipe, batch_loss=loss)


@breaks(defences.can_be_sent_to_workers)
def makes_a_closure(recipe, /):
    return replace(recipe, batch_loss=lambda net, x, y, *, rng: cross_entropy(net, x, y, rng=rng))


def _with_loss(promise: Check) -> Callable[[BatchLoss], BatchLoss]:
    def keep(loss: BatchLoss) -> BatchLoss:
        def run(recipe: Recipe, /) -> Recipe:
            """Train with a defect."""
            return replace(recipe, batch_loss=loss)

        run.__name__ = loss.__name__
        BROKEN[promise].append(_entry("training", run))
        return loss

    return keep


@_with_loss(defences.has_a_loss_to_learn_from)
def leaves_gradients_on_the_weights(net, x, y, /, *, rng):
    cross_entropy(net, x, y, rng=rng).backward()
    return cross_entropy(net, x, y, rng=rng)


@_with_loss(defences.has_a_loss_to_learn_from)
def switches_to_evaluation(net, x, y, /, *, rng):
    return cross_entropy(net.eval(), x, y, rng=rng)


@_with_loss(defences.has_a_loss_to_learn_from)
def writes_into_its_batch(net, x, y, /, *, rng):
    return cross_entropy(net, x.add_(0.01), y, rng=rng)


@_with_loss(defences.has_a_loss_to_learn_from)
def has_no_slope(net, x, y, /, *, rng):
    with torch.no_grad():
        return cross_entropy(net, x, y, rng=rng)


@_with_loss(defences.has_a_loss_to_learn_from)
def returns_a_loss_per_row(net, x, y, /, *, rng):
    return nn.functional.cross_entropy(net(x), y, reduction="none")


@_with_loss(defences.has_a_loss_to_learn_from)
def draws_from_numpy(net, x, y, /, *, rng):
    np.random.rand()  # noqa: NPY002
    return cross_entropy(net, x, y, rng=rng)


@_with_loss(defences.takes_its_random_numbers_from_the_stream)
def draws_globally(net, x, y, /, *, rng):
    return cross_entropy(net, x + 0.1 * torch.randn_like(x), y, rng=rng)


@_with_loss(defences.puts_modes_back_after_an_error)
def forgets_the_mode_on_an_error(net, x, y, /, *, rng):
    net.eval()
    net(x)
    net.train()
    return cross_entropy(net, x, y, rng=rng)


@_with_loss(defences.puts_modes_back_after_an_error)
def thaws_frozen_weights(net, x, y, /, *, rng):
    net.requires_grad_(False)
    net(x)
    net.requires_grad_(True)
    return cross_entropy(net, x, y, rng=rng)


@_with_loss(defences.trains_a_classifier)
def learns_other_labels(net, x, y, /, *, rng):
    return cross_entropy(net, x, (y + 1) % 3, rng=rng)


# --- screening ------------------------------------------------------------------------------------


@breaks(defences.chooses_rows_of_any_data)
def expects_a_sequential(model, data, /, *, rng, tick=ignore):
    model.net[:-1](data.x)
    return residuals(model, data, rng=rng)


@breaks(defences.chooses_rows_of_any_data)
def returns_row_numbers(model, data, /, *, rng, tick=ignore):
    return residuals(model, data, rng=rng).nonzero().flatten()


@breaks(defences.chooses_rows_of_any_data)
def knows_three_classes(model, data, /, *, rng, tick=ignore):
    torch.nn.functional.one_hot(data.y, 3)
    return residuals(model, data, rng=rng)


@breaks(defences.takes_lopsided_data)
def needs_every_class(model, data, /, *, rng, tick=ignore):
    assert min((data.y == label).sum() for label in range(data.classes)) > 1
    return residuals(model, data, rng=rng)


@breaks(defences.keeps_most_clean_rows)
def drops_a_third(model, data, /, *, rng, tick=ignore):
    return torch.arange(len(data)) % 3 > 0


@breaks(defences.drops_planted_rows_first)
def drops_at_random(model, data, /, *, rng, tick=ignore):
    return torch.rand(len(data), generator=rng) > 0.1


@breaks(defences.drops_planted_rows_first)
def keeps_the_farthest(model, data, /, *, rng, tick=ignore):
    return ~residuals(model, data, rng=rng)


@breaks(defences.leaves_everything_alone)
def leaves_the_model_in_evaluation_mode(model, data, /, *, rng, tick=ignore):
    model.net.eval()
    return residuals(model, data, rng=rng)


@breaks(defences.leaves_everything_alone)
def forgets_a_hook_after_an_error(model, data, /, *, rng, tick=ignore):
    hook = model.net.register_forward_hook(lambda *_: None)
    keep = residuals(model, data, rng=rng, tick=tick)
    hook.remove()
    return keep


@breaks(defences.leaves_everything_alone)
def seeds_torch(model, data, /, *, rng, tick=ignore):
    torch.manual_seed(0)
    return residuals(model, data, rng=rng)


@breaks(defences.repeats_its_choice)
def reads_a_training_net(model, data, /, *, rng, tick=ignore):
    with torch.no_grad():
        before = copy.deepcopy(model.net.state_dict())
        sure = model.logits(data.x).amax(1)
        model.net.load_state_dict(before)
    return sure > sure.quantile(0.3)


@breaks(defences.repeats_its_choice)
def draws_rows_globally(model, data, /, *, rng, tick=ignore):
    return torch.rand(len(data)) > 0.1


# --- repair ---------------------------------------------------------------------------------------


@breaks(defences.mends_any_net)
def reaches_into_a_sequential(model, clean, /, *, rng, tick=ignore):
    assert model.net[0] is not None
    return shrink(model, clean, rng=rng)


@breaks(defences.mends_any_net)
def forgets_the_shape(model, clean, /, *, rng, tick=ignore):
    return replace(shrink(model, clean, rng=rng), shape=())


@breaks(defences.takes_very_little_data)
def divides_by_the_rows(model, clean, /, *, rng, tick=ignore):
    assert 1 / len(clean) <= 1
    return shrink(model, clean, rng=rng)


@breaks(defences.keeps_the_clean_accuracy)
def forgets_everything(model, clean, /, *, rng, tick=ignore):
    mended = shrink(model, clean, rng=rng)
    with torch.no_grad():
        for weight in mended.net.parameters():
            weight.zero_()
    return mended


@breaks(defences.leaves_the_given_model_alone)
def mends_in_place(model, clean, /, *, rng, tick=ignore):
    with torch.no_grad():
        next(model.net.parameters()).mul_(0.999)
    return replace(model, net=copy.deepcopy(model.net))


@breaks(defences.leaves_the_given_model_alone)
def returns_the_same_net(model, clean, /, *, rng, tick=ignore):
    return replace(model)


@breaks(defences.leaves_the_given_model_alone)
def draws_from_python(model, clean, /, *, rng, tick=ignore):
    import random

    random.random()
    return shrink(model, clean, rng=rng)


@breaks(defences.repeats_its_mending)
def draws_weights_globally(model, clean, /, *, rng, tick=ignore):
    mended = shrink(model, clean, rng=rng)
    with torch.no_grad():
        next(mended.net.parameters()).add_(1e-3 * torch.rand(()))
    return mended


@breaks(defences.stops_when_a_tick_raises)
def swallows_exceptions(model, clean, /, *, rng, tick=ignore):
    try:
        return shrink(model, clean, rng=rng, tick=tick)
    except Cancelled:
        return shrink(model, clean, rng=rng)


@breaks(defences.stops_when_a_tick_raises)
def never_ticks(model, clean, /, *, rng, tick=ignore):
    return shrink(model, clean, rng=rng)


# --- scanning -------------------------------------------------------------------------------------


@breaks(defences.scans_any_net)
def scans_three_classes_only(model, clean, /, *, rng, tick=ignore):
    found = nearest(model, clean, rng=rng, tick=tick)
    return replace(found, evidence=found.evidence[:3])


@breaks(defences.measures_the_success_of_its_triggers_itself)
def boasts(model, clean, /, *, rng, tick=ignore):
    found = nearest(model, clean, rng=rng, tick=tick)
    return replace(found, success=torch.ones_like(found.success))


@breaks(defences.scans_very_little_data)
def asks_for_many_rows(model, clean, /, *, rng, tick=ignore):
    found = nearest(model, clean, rng=rng, tick=tick)
    return replace(found, size=found.size * clean.x[10].mean())


@breaks(defences.calls_few_clean_models_backdoored)
def calls_every_model_backdoored(model, clean, /, *, rng, tick=ignore):
    found = nearest(model, clean, rng=rng, tick=tick)
    return replace(found, flagged=~found.flagged)


@breaks(defences.leaves_the_scanned_model_alone)
def switches_the_scanned_net(model, clean, /, *, rng, tick=ignore):
    model.net.eval()
    return nearest(model, clean, rng=rng, tick=tick)


@breaks(defences.repeats_its_scan)
def scans_at_random(model, clean, /, *, rng, tick=ignore):
    found = nearest(model, clean, rng=rng, tick=tick)
    return replace(found, size=found.size + torch.rand(model.classes))


@breaks(defences.stops_scanning_when_a_tick_raises)
def scans_on(model, clean, /, *, rng, tick=ignore):
    return nearest(model, clean, rng=rng)
