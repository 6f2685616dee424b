"""A fair contest: same net, data, budget and batch, taking turns, judged by one judge."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn

BATCH = 125  # at which the peers are fastest: with larger ones the plain net waits for memory
SLACK = 1e-6  # of x: what rounding may add to a perturbation


class Counted(nn.Module):
    """A net that counts the images passed forward and backward."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.forwards = self.backwards = 0

    def forward(self, x: Tensor) -> Tensor:
        """Pass x on and count its images; those passed backward are counted by a hook."""
        self.forwards += len(x)
        out: Tensor = self.net(x)
        if out.requires_grad:
            out.register_hook(self._backward)
        return out

    def _backward(self, grad: Tensor) -> None:
        self.backwards += len(grad)


@dataclass(frozen=True)
class Task:
    """What everybody attacks: net, images x (N, C, H, W) in [0, 1], their classes, and the ball.

    An infinite `eps` asks for the nearest example. Each turn has another `seed`. `batch` images are passed
    at a time.
    """

    title: str
    net: nn.Module
    x: Tensor
    y: Tensor
    norm: str
    eps: float = math.inf
    seed: int = 0
    batch: int = BATCH


# (counted net, task) -> candidates (N, C, H, W); raises ImportError where the library is missing
Run = Callable[[Counted, Task], Tensor]


@dataclass(frozen=True)
class Entrant:
    """One library's attack."""

    name: str
    run: Run

    @property
    def ours(self) -> bool:
        """Whether this is casemate; what breaks down in a peer is told, in casemate it is an error."""
        return self.name.startswith("casemate")


@dataclass
class Score:
    """What an entrant needed and achieved, as the judge sees it.

    `fooled` (N,) bool and `sizes` (N,) are those of the first turn, `stood` the share of images still
    right after each.
    """

    name: str
    seconds: float = math.inf
    floor: float = math.inf
    forwards: float = 0.0
    backwards: float = 0.0
    fooled: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))
    sizes: Tensor = field(default_factory=lambda: torch.zeros(0))
    stood: list[float] = field(default_factory=list)
    skipped: str = ""

    @property
    def standing(self) -> float:
        """Share of the images that the net still gets right, mean over the turns."""
        return sum(self.stood) / len(self.stood) if self.stood else math.nan

    @property
    def median(self) -> float:
        """Median size over all images; an image that stands is infinitely far."""
        return self.sizes.median().item()


def contest(task: Task, entrants: Sequence[Entrant], repeats: int) -> list[Score]:
    """Let entrants take turns `repeats` times; the least process CPU of each counts.

    The floor is what the passes that an entrant made would cost alone: forwards and backwards of
    the plain net at the same batch size, timed before each round.
    """
    scores = [Score(entrant.name) for entrant in entrants]
    forward, both = math.inf, math.inf
    for turn in range(repeats):
        forward, both = (min(pair) for pair in zip((forward, both), _units(task), strict=True))
        # another order each time, so that nobody always runs in a warm or a throttled machine
        for i in _rotated(len(entrants), turn):
            if not scores[i].skipped:
                _run(entrants[i], replace(task, seed=turn), scores[i])
    for score in scores:
        alone = max(0.0, score.forwards - score.backwards)
        score.floor = len(task.x) * (alone * forward + score.backwards * both)
    return scores


def _rotated(n: int, turn: int) -> list[int]:
    return [(i + turn) % n for i in range(n)]


def _run(entrant: Entrant, task: Task, score: Score) -> None:
    net = Counted(task.net).eval()
    torch.manual_seed(task.seed)
    np.random.seed(task.seed)  # noqa: NPY002 - what peers draw from
    try:
        start = time.process_time()
        x_adv = entrant.run(net, task)
        seconds = time.process_time() - start
    except ImportError as error:
        score.skipped = f"not importable: {error}"
        return
    except LookupError as error:  # a method of ours that this version does not have
        score.skipped = str(error)
        return
    except Exception as error:
        if entrant.ours:
            raise
        score.skipped = f"broke down: {type(error).__name__}: {error}"
        return
    score.seconds = min(score.seconds, seconds)
    score.forwards, score.backwards = net.forwards / len(task.x), net.backwards / len(task.x)
    fooled, sizes = judge(task, x_adv.detach())
    score.stood.append(1 - fooled.double().mean().item())
    if not len(score.fooled):
        score.fooled, score.sizes = fooled, sizes


def judge(task: Task, x_adv: Tensor) -> tuple[Tensor, Tensor]:
    """Look at candidates with the plain net in float32: fooled (N,) bool, and sizes (N,).

    What leaves the ball or the box by more than rounding does not count.
    """
    delta = (x_adv.float() - task.x).double().flatten(1)
    sizes = delta.abs().amax(1) if task.norm == "linf" else delta.norm(dim=1)
    legal = (sizes <= task.eps + SLACK) & ((x_adv >= -SLACK) & (x_adv <= 1 + SLACK)).flatten(1).all(1)
    wrong = torch.cat([task.net(part).argmax(1) for part in x_adv.float().split(task.batch)]) != task.y
    before = torch.cat([task.net(part).argmax(1) for part in task.x.split(task.batch)]) != task.y
    fooled = before | (wrong & legal)
    sizes = torch.where(before, 0.0, torch.where(fooled, sizes, math.inf))
    return fooled, sizes


def _units(task: Task) -> tuple[float, float]:
    """Seconds per image of a forward, and of a forward with the backward to the input."""
    x = task.x[: task.batch]

    def forward() -> None:
        with torch.no_grad():
            task.net(x)

    def both() -> None:
        z = x.clone().requires_grad_()
        torch.autograd.grad(task.net(z).sum(), z)

    return _least(forward) / len(x), _least(both) / len(x)


def _least(work: Callable[[], None], tries: int = 7) -> float:
    times = []
    work()
    for _ in range(tries):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)
