"""Side by side: the same weights as one after another, and no job harms its neighbours."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from torch import Generator, Tensor, nn

from casemate.core.data import Samples
from casemate.core.errors import Cancelled, NotApplicable, UsageError
from casemate.core.recipe import Recipe, cross_entropy
from casemate.core.target import Classifier
from casemate.core.workers import Failed, Selection, Workers, train_many
from casemate.ops.rng import generator


def net(hidden: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(48, hidden),
        nn.ReLU(), nn.Linear(hidden, 3),
    )  # fmt: skip


@dataclass(frozen=True)
class Refuses:
    """A batch loss that fails as a defence may."""

    def __call__(self, net: nn.Module, x: Tensor, y: Tensor, /, *, rng: Generator) -> Tensor:
        raise NotApplicable("not on this data")


@dataclass(frozen=True)
class Dies:
    """A batch loss that takes its process along, as a lack of memory would."""

    parent: int

    def __call__(self, net: nn.Module, x: Tensor, y: Tensor, /, *, rng: Generator) -> Tensor:
        if os.getpid() != self.parent:
            os._exit(9)
        return cross_entropy(net, x, y, rng=rng)


class Awkward(Exception):
    """An exception that cannot be made anew from its text."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__("awkward")


@dataclass(frozen=True)
class RaisesAwkward:
    """A batch loss that raises it."""

    def __call__(self, net: nn.Module, x: Tensor, y: Tensor, /, *, rng: Generator) -> Tensor:
        raise Awkward(1, 2)


RECIPE = Recipe(partial(net, 8), "net", epochs=4, batch=8)


@pytest.fixture(scope="module")
def pool() -> Iterator[Workers]:
    with Workers(2) as workers:
        yield workers


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def data(n: int = 60) -> Samples:
    x = torch.rand(n, 2, 6, 6, generator=generator(0))
    return Samples(x, (3 * x.mean((1, 2, 3))).long().clamp(0, 2), 3)


def state(model: Classifier) -> dict[str, Tensor]:
    found: dict[str, Tensor] = model.net.state_dict()
    return found


def assert_equal(first: Classifier, second: Classifier) -> None:
    assert state(first).keys() == state(second).keys()
    for name, value in state(first).items():
        assert torch.equal(value, state(second)[name]), name
    assert (first.classes, first.shape) == (second.classes, second.shape)


def test_workers_give_the_weights_of_training_here_bit_for_bit(pool: Workers) -> None:
    samples = data()
    jobs = [
        (RECIPE, samples, 1),
        (replace(RECIPE, make=partial(net, 5)), samples, 2),
        (RECIPE, samples[slice(0, 33)], 3),
    ]
    for model, (recipe, part, seed) in zip(pool.train_many(jobs), jobs, strict=True):
        assert_equal(model, recipe(part, rng=generator(seed)))
        assert not any(module.training for module in model.net.modules())


def test_a_pool_of_one_trains_here_and_gives_the_same(pool: Workers) -> None:
    jobs = [(RECIPE, data(), seed) for seed in (1, 2)]
    for here, there in zip(Workers(1).train_many(jobs), pool.train_many(jobs), strict=True):
        assert_equal(here, there)


@pytest.mark.parametrize("count", [1, 2])
def test_each_victim_is_told_of_as_soon_as_it_is_there(count: int) -> None:
    """A run that is stopped at the third victim has been given the two before it, or what else had ended."""
    told: dict[int, Classifier] = {}

    def done(job: int, model: Classifier) -> None:
        told[job] = model
        if len(told) == 2:
            raise KeyboardInterrupt

    with Workers(count) as workers, pytest.raises(KeyboardInterrupt):
        workers.train_many([(RECIPE, data(), seed) for seed in (1, 2, 3)], done=done)
    assert len(told) == 2
    for job, model in told.items():
        assert_equal(model, RECIPE(data(), rng=generator(job + 1)))


def test_selections_equal_copies_of_their_rows(pool: Workers) -> None:
    samples, rows = data(), torch.tensor([5, 3, 3, 40, 41, 42, 7, 8, 9, 10, 11, 59])
    flipped = (samples.y[rows] + 1) % 3
    jobs = [(RECIPE, Selection(samples, rows), 1), (RECIPE, Selection(samples, rows, flipped), 1)]
    copies = [samples[rows], Samples(samples.x[rows], flipped, 3)]
    for workers in (pool, Workers(1)):
        for model, copy in zip(workers.train_many(jobs), copies, strict=True):
            assert_equal(model, RECIPE(copy, rng=generator(1)))


def test_a_failed_job_leaves_the_others_alone(pool: Workers) -> None:
    samples = data()
    jobs = [
        (RECIPE, samples, 1), (replace(RECIPE, batch_loss=Refuses()), samples, 1), (RECIPE, samples[slice(0, 0)], 1),
        (RECIPE, samples, 2),
    ]  # fmt: skip
    for workers in (pool, Workers(1)):
        first, refused, empty, last = workers.outcomes(jobs)
        assert isinstance(first, Classifier)
        assert isinstance(last, Classifier)
        assert isinstance(refused, Failed)
        assert isinstance(refused.error, NotApplicable)
        assert str(refused.error) == "not on this data"
        assert isinstance(empty, Failed)
        assert isinstance(empty.error, UsageError)


def test_the_first_failure_is_raised_where_classifiers_are_wanted(pool: Workers) -> None:
    with pytest.raises(NotApplicable, match="not on this data"):
        pool.train_many([(RECIPE, data(), 1), (replace(RECIPE, batch_loss=Refuses()), data(), 1)])


def test_an_exception_that_cannot_travel_is_told(pool: Workers) -> None:
    failed = pool.outcomes([(RECIPE, data(), 1), (replace(RECIPE, batch_loss=RaisesAwkward()), data(), 1)])[1]
    assert isinstance(failed, Failed)
    assert str(failed.error) == "Awkward: awkward"
    assert "batch_loss" in failed.error.__notes__[0]


def test_the_death_of_a_worker_fails_its_job_only(pool: Workers) -> None:
    deadly = replace(RECIPE, batch_loss=Dies(os.getpid()))
    jobs = [(deadly, data(), 1), (RECIPE, data(), 1), (RECIPE, data(), 2), (RECIPE, data(), 3)]
    died, *others = pool.outcomes(jobs)
    assert isinstance(died, Failed)
    assert "exit code 9" in str(died.error)
    for seed, model in enumerate(others, 1):
        assert isinstance(model, Classifier)
        assert_equal(model, RECIPE(data(), rng=generator(seed)))


def test_a_recipe_that_cannot_be_sent_is_trained_here(pool: Workers) -> None:
    local = Recipe(lambda: net(8), "net", epochs=4, batch=8)
    models = pool.train_many([(local, data(), 1), (RECIPE, data(), 1)])
    assert_equal(models[0], models[1])


def test_progress_adds_up_and_ends_at_its_total(pool: Workers) -> None:
    told: list[tuple[int, int]] = []

    def tick(step: int, total: int, values: Mapping[str, float], /) -> None:
        assert values["loss"] > 0
        told.append((step, total))

    jobs = [(RECIPE, data(), 1), (RECIPE, data(17), 2), (replace(RECIPE, epochs=9), data(), 3)]
    total = sum(recipe.steps(len(part)) for recipe, part, _ in jobs)
    for workers in (pool, Workers(1)):
        told.clear()
        workers.train_many(jobs, tick=tick)
        assert told == sorted(told)
        assert told[-1] == (total, total)


def test_a_tick_that_raises_stops_the_work_and_the_pool_can_be_used_again(pool: Workers) -> None:
    def stop(*_: object) -> None:
        raise Cancelled("enough")

    jobs = [(replace(RECIPE, epochs=200), data(), seed) for seed in (1, 2, 3)]
    for workers in (pool, Workers(1)):
        with pytest.raises(Cancelled, match="enough"):
            workers.outcomes(jobs, tick=stop)
    assert_equal(
        pool.train_many([(RECIPE, data(), 4), (RECIPE, data(), 5)])[0], RECIPE(data(), rng=generator(4))
    )


def test_training_here_puts_threads_and_random_state_back() -> None:
    torch.set_num_threads(2)
    before = torch.get_rng_state()
    train_many([(RECIPE, data(), 1)])
    assert torch.get_num_threads() == 2
    assert torch.equal(torch.get_rng_state(), before)


def test_no_jobs_give_no_classifiers(pool: Workers) -> None:
    assert pool.train_many([]) == []


def test_a_script_without_a_guard_is_not_run_again(tmp_path) -> None:
    """Its functions are unknown to the workers, so they are used here; the script runs once."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        import torch
        from torch import nn
        from casemate.core.data import Samples
        from casemate.core.recipe import Recipe
        from casemate.core.workers import train_many
        print("once")
        def make():
            return nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        data = Samples(torch.rand(20, 4), torch.arange(20) % 2, 2)
        print(len(train_many([(Recipe(make, "own"), data, 1), (Recipe(make, "own"), data, 2)], workers=2)))
        """)
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["once", "2"], done.stderr
    assert done.stderr == ""
