"""Membership attacks that keep every promise, and the same with one defect each."""

from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from casemate.core import registry
from casemate.core.data import World
from casemate.core.errors import Cancelled
from casemate.core.registry import Entry
from casemate.core.target import ScoreOracle
from casemate.core.tick import Tick, ignore
from casemate.ops.losses import error_odds
from conformance import membership
from conformance.membership import Check
from conformance.toys import PAPER, entry_of


def threshold(
    oracle: ScoreOracle, x: Tensor, y: Tensor, world: World, /, *, rng: Generator, tick: Tick = ignore
) -> Tensor:
    """Score rows by their confidence, less that of shadow models that did not see them."""
    scores = -error_odds(oracle.logits(x), y)
    for step, shadow in enumerate(world.shadows(4)):
        easy = -error_odds(shadow.oracle.logits(x), y)
        scores = scores - torch.where(shadow.members, easy * 0, easy) / 16
        tick(step + 1, 4, {})
    return scores


CORRECT = (entry_of(registry.membership(papers=(PAPER,)), threshold),)
BROKEN: dict[Check, list[Entry]] = defaultdict(list)
Defect = Callable[[ScoreOracle, Tensor, Tensor, World, Generator, Tick], Tensor]


def breaks(promise: Check) -> Callable[[Defect], Defect]:
    """Make a membership attack of a defect and say which promise it breaks."""

    def keep(defect: Defect) -> Defect:
        def run(
            oracle: ScoreOracle, x: Tensor, y: Tensor, world: World, /, *, rng: Generator, tick: Tick = ignore
        ) -> Tensor:
            """Score rows with a defect."""
            return defect(oracle, x, y, world, rng, tick)

        run.__name__ = defect.__name__
        BROKEN[promise].append(entry_of(registry.membership(papers=(PAPER,)), run))
        return defect

    return keep


@breaks(membership.scores_members_higher)
def scores_by_the_loss_itself(oracle, x, y, world, rng, tick):
    """Higher loss, higher score: the labels are the wrong way round (pitfall M3)."""
    return -threshold(oracle, x, y, world, rng=rng)


@breaks(membership.scores_members_higher)
def returns_a_column(oracle, x, y, world, rng, tick):
    return threshold(oracle, x, y, world, rng=rng)[:, None]


@breaks(membership.scores_members_higher)
def ignores_labels(oracle, x, y, world, rng, tick):
    return oracle.logits(x)[:, 0]


@breaks(membership.sees_no_members_where_there_are_none)
def knows_the_order(oracle, x, y, world, rng, tick):
    """Members come first in many demonstrations."""
    return -torch.arange(len(x)).double()


@breaks(membership.swaps_with_its_classes)
def always_prefers_the_first_half(oracle, x, y, world, rng, tick):
    return (torch.arange(len(x)) < len(x) // 2).double()


@breaks(membership.gives_numbers_for_confident_models)
def takes_logarithms_of_probabilities(oracle, x, y, world, rng, tick):
    """log(p / (1 - p)) is infinite where p rounds to one."""
    p = oracle.logits(x).softmax(1).gather(1, y[:, None]).squeeze(1)
    return p.log() - (1 - p).log()


@breaks(membership.takes_any_number_of_classes_and_rows)
def needs_two_rows(oracle, x, y, world, rng, tick):
    scores = threshold(oracle, x, y, world, rng=rng)
    return (scores - scores.mean()) / scores.std()


@breaks(membership.takes_any_number_of_classes_and_rows)
def knows_ten_classes(oracle, x, y, world, rng, tick):
    torch.nn.functional.one_hot(y, 10)
    return threshold(oracle, x, y, world, rng=rng)


@breaks(membership.repeats_itself)
def breaks_ties_at_random(oracle, x, y, world, rng, tick):
    return threshold(oracle, x, y, world, rng=rng) + 1e-3 * torch.rand(len(x))


@breaks(membership.permutes_with_its_rows)
def depends_on_the_place(oracle, x, y, world, rng, tick):
    return threshold(oracle, x, y, world, rng=rng) + torch.arange(len(x)) / 100


@breaks(membership.leaves_everything_alone)
def leaves_the_model_in_evaluation_mode(oracle, x, y, world, rng, tick):
    oracle.prepared.target.net.eval()
    return threshold(oracle, x, y, world, rng=rng)


@breaks(membership.leaves_everything_alone)
def seeds_torch(oracle, x, y, world, rng, tick):
    torch.manual_seed(0)
    return threshold(oracle, x, y, world, rng=rng)


@breaks(membership.asks_only_about_its_rows)
def asks_for_ever(oracle, x, y, world, rng, tick):
    for _ in range(200):
        oracle.logits(x)
    return threshold(oracle, x, y, world, rng=rng)


@breaks(membership.asks_only_about_its_rows)
def asks_about_some_rows_twice(oracle, x, y, world, rng, tick):
    half = torch.arange(len(x) // 2)
    oracle[half].logits(x[half])
    return threshold(oracle, x, y, world, rng=rng)


@breaks(membership.stops_when_a_tick_raises)
def swallows_exceptions(oracle, x, y, world, rng, tick):
    try:
        return threshold(oracle, x, y, world, rng=rng, tick=tick)
    except Cancelled:
        return threshold(oracle, x, y, world, rng=rng)


@breaks(membership.stops_when_a_tick_raises)
def never_ticks(oracle, x, y, world, rng, tick):
    return threshold(oracle, x, y, world, rng=rng)
