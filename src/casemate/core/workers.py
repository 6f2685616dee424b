"""Many victims side by side: one process with one thread per core.

Inputs travel to the workers by files that every worker maps, so that common data are neither copied
nor limited by the size of shared memory. A job gives the same weights wherever it runs, because
jobs that run in this process get a single thread as well.
"""

import os
import pickle
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self, assert_never

import torch
from torch import Tensor

from casemate.core.data import Samples
from casemate.core.processes import TrainingProcess
from casemate.core.recipe import Recipe
from casemate.core.target import Classifier
from casemate.core.tick import Tick, ignore
from casemate.core.worker import Answer, Mapped, Order
from casemate.ops.rng import generator, seeded


@dataclass(frozen=True)
class Selection:
    """Some rows of common data, with other labels if given: `rows` (M,) int64, `y` (M,) or None.

    Jobs that differ only by rows and labels share one copy of the inputs.
    """

    data: Samples
    rows: Tensor
    y: Tensor | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def samples(self) -> Samples:
        """Copy the rows out."""
        chosen = self.data[self.rows]
        return chosen if self.y is None else Samples(chosen.x, self.y, chosen.classes, chosen.names)


@dataclass(frozen=True)
class Failed:
    """Stands in the place of a classifier that could not be trained, and says why."""

    error: Exception


Job = tuple[Recipe, Samples | Selection, int]
Outcome = Classifier | Failed
Done = Callable[[int, Classifier], None]  # told of each victim, by its job's number, as soon as it is trained


def untold(job: int, model: Classifier, /) -> None:
    """Take note of nothing."""


def train_many(
    jobs: Sequence[Job], /, *, workers: int | None = None, tick: Tick = ignore
) -> list[Classifier]:
    """Train victims side by side in a pool made for this call (see `Workers`).

    Args:
        jobs: recipe, data and seed of each victim; it is `recipe(data, rng=generator(seed))`.
        workers: processes; None means one per core, 1 means this process.
        tick: called with the steps done and to be done, summed over the jobs.

    Returns:
        The classifiers, in the order of the jobs.
    """
    with Workers(workers) as pool:
        return pool.train_many(jobs, tick=tick)


class Workers:
    """A pool of training processes: started when first needed, stopped at the end of the `with`.

    Starting one takes seconds, so a run should have one pool.
    """

    def __init__(self, count: int | None = None) -> None:
        self.count = _cores() if count is None else max(1, count)
        self._processes: list[TrainingProcess] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the processes; new ones start when needed."""
        for process in self._processes:
            process.stop()
        self._processes.clear()

    def train_many(
        self, jobs: Sequence[Job], /, *, tick: Tick = ignore, done: Done = untold
    ) -> list[Classifier]:
        """Train victims side by side, in the order of the jobs; `done` gets each as soon as it is there.

        A failed job does not keep the others from ending, but then its error is raised.
        """
        models = []
        for outcome in self.outcomes(jobs, tick=tick, done=done):
            if isinstance(outcome, Failed):
                raise outcome.error
            models.append(outcome)
        return models

    def outcomes(self, jobs: Sequence[Job], /, *, tick: Tick = ignore, done: Done = untold) -> list[Outcome]:
        """Train victims side by side; a job that fails leaves a `Failed` in its place.

        An error that `tick` or `done` raises stops all jobs and is raised again.
        """
        progress = _Progress([recipe.steps(len(data)) for recipe, data, _ in jobs], tick)
        if self.count == 1 or len(jobs) < 2 or any(_inputs(data).is_cuda for _, data, _ in jobs):
            found = []
            for i, job in enumerate(jobs):
                found.append(_told(i, _here(job, i, progress), done))
            return found
        try:
            with TemporaryDirectory(prefix="casemate-", ignore_cleanup_errors=True) as folder:
                return self._spread(jobs, Path(folder), progress, done)
        except BaseException:
            self.close()  # they are busy with jobs that nobody waits for
            raise

    def _spread(self, jobs: Sequence[Job], folder: Path, progress: "_Progress", told: Done) -> list[Outcome]:
        self._processes += [
            TrainingProcess() for _ in range(min(self.count, len(jobs)) - len(self._processes))
        ]
        todo, done = deque(range(len(jobs))), dict[int, Outcome]()
        files: dict[tuple[object, ...], Mapped] = {}
        free, busy = list(self._processes), dict[Connection, tuple[TrainingProcess, int]]()
        while todo or busy:
            while free and todo:
                i = todo.popleft()
                letter = _letter(jobs[i], files, folder)
                if letter is None:
                    done[i] = _told(i, _here(jobs[i], i, progress), told)
                else:
                    process = free.pop()
                    process.send(letter)
                    busy[process.pipe] = process, i
            for pipe in [p for p in wait(list(busy)) if isinstance(p, Connection)]:
                process, i = busy[pipe]
                outcome = _take(process.receive(), jobs[i], i, progress)
                if outcome is not None:
                    done[i] = _told(i, outcome, told)
                    del busy[pipe]
                    free.append(process if process.alive else self._replace(process))
        return [done[i] for i in range(len(jobs))]

    def _replace(self, process: TrainingProcess) -> TrainingProcess:
        process.stop()
        self._processes[self._processes.index(process)] = fresh = TrainingProcess()
        return fresh


def _told(job: int, outcome: Outcome, done: Done) -> Outcome:
    if isinstance(outcome, Classifier):
        done(job, outcome)
    return outcome


class _Progress:
    """Adds up the steps of all jobs for one tick."""

    def __init__(self, totals: Sequence[int], tick: Tick) -> None:
        self._totals, self._tick = totals, tick
        self._done = [0] * len(totals)
        self.stopped_by: BaseException | None = None

    def step(self, job: int, step: int, values: Mapping[str, float]) -> None:
        """Report that `step` steps of one job are done."""
        self._done[job] = step
        try:
            self._tick(sum(self._done), sum(self._totals), values)
        except BaseException as error:
            self.stopped_by = error
            raise

    def finish(self, job: int) -> None:
        """Count a job's steps as done, also when it failed before its end."""
        self._done[job] = self._totals[job]


def _here(job: Job, index: int, progress: _Progress) -> Outcome:
    """Train in this process, by the same arithmetic as a worker."""
    recipe, data, seed = job

    def tick(step: int, total: int, values: Mapping[str, float], /) -> None:
        progress.step(index, step, values)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        samples = data.samples() if isinstance(data, Selection) else data
        return recipe(samples, rng=generator(seed), tick=tick)
    except Exception as error:
        if error is progress.stopped_by:
            raise
        return Failed(error)
    finally:
        torch.set_num_threads(threads)
        progress.finish(index)


def _letter(job: Job, files: dict[tuple[object, ...], Mapped], folder: Path) -> bytes | None:
    """Write an order to a worker; None where its recipe cannot be sent to another process.

    Inputs that several jobs share are put into one file.
    """
    recipe, data, seed = job
    x = _inputs(data)
    key = x.data_ptr(), x.shape, x.stride(), x.dtype
    if key not in files:
        files[key] = Mapped.write(x, folder / str(len(files)))
    if isinstance(data, Selection):
        y = data.data.y[data.rows] if data.y is None else data.y
        order = Order(recipe, files[key], data.rows, y, data.data.classes, seed)
    else:
        order = Order(recipe, files[key], None, data.y, data.classes, seed)
    try:
        return pickle.dumps(order)
    except (pickle.PicklingError, AttributeError, TypeError):  # by its kind of object, one of the three
        return None


def _take(answer: Answer, job: Job, index: int, progress: _Progress) -> Outcome | None:
    """Turn a worker's answer into the job's outcome; None while it is not at its end."""
    kind, content = answer
    match kind:
        case "step":
            progress.step(index, *content)
            return None
        case "trained":
            progress.finish(index)
            return _built(job, *content)
        case "failed":
            progress.finish(index)
            return Failed(content)
        case "unreadable":  # as functions of a notebook are, which no other process knows
            return _here(job, index, progress)
    assert_never(kind)


def _built(job: Job, state: Mapping[str, Tensor], classes: int) -> Classifier:
    x = _inputs(job[1])
    with seeded(0, x.device):
        net = job[0].make()
    net.load_state_dict(state)
    return Classifier(net.eval(), classes, tuple(x.shape[1:]))


def _inputs(data: Samples | Selection) -> Tensor:
    return data.data.x if isinstance(data, Selection) else data.x


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
