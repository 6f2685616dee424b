"""What runs in a training process, and the letters that go to it and come back."""

import pickle
import signal
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from casemate.core.data import Samples
from casemate.core.recipe import Recipe
from casemate.ops.rng import generator

Kind = Literal["step", "trained", "failed", "unreadable"]
Answer = tuple[Kind, Any]


@dataclass(frozen=True)
class Mapped:
    """A tensor that lies in a file: each process maps it, and none can change it for the others."""

    path: Path
    shape: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def write(cls, tensor: Tensor, path: Path) -> "Mapped":
        """Write a tensor's values to a file."""
        tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tofile(path)
        return cls(path, tuple(tensor.shape), tensor.dtype)

    def read(self) -> Tensor:
        """Map the file."""
        size = torch.Size(self.shape).numel()
        if size == 0:
            return torch.empty(self.shape, dtype=self.dtype)
        return torch.from_file(str(self.path), shared=False, size=size, dtype=self.dtype).view(self.shape)


@dataclass(frozen=True)
class Order:
    """A job for a worker: inputs x in a file, of which the `rows` (all where None) are meant."""

    recipe: Recipe
    x: Mapped
    rows: Tensor | None
    y: Tensor
    classes: int
    seed: int

    def samples(self) -> Samples:
        """Put the training set together."""
        x = self.x.read()
        return Samples(x if self.rows is None else x[self.rows], self.y, self.classes)


def serve(pipe: Connection) -> None:
    """Train what comes through the pipe, one job after another, until its other end is closed."""
    # the parent process, which hears the same Ctrl-C, decides what becomes of the jobs
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    try:
        while True:
            _send(pipe, _answer(pipe.recv_bytes(), pipe))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _answer(letter: bytes, pipe: Connection) -> Answer:
    try:
        order: Order = pickle.loads(letter)  # noqa: S301 - from the parent process only
    except Exception as error:
        return "unreadable", f"{type(error).__name__}: {error}"

    def tick(step: int, total: int, values: Mapping[str, float], /) -> None:
        _send(pipe, ("step", (step, dict(values))))

    try:
        model = order.recipe(order.samples(), rng=generator(order.seed), tick=tick)
    except (BrokenPipeError, ConnectionResetError):
        raise
    except Exception as error:
        return "failed", _portable(error)
    return "trained", (model.net.state_dict(), model.classes)


def _portable(error: Exception) -> Exception:
    """Make an exception that can travel, with its trace as a note."""
    trace = "".join(traceback.format_exception(error)).rstrip()
    try:
        copy: Exception = pickle.loads(pickle.dumps(error))  # noqa: S301 - made on the same line
    except Exception:
        copy = RuntimeError(f"{type(error).__name__}: {error}")
    copy.add_note(f"In a training process:\n{trace}")
    return copy


def _send(pipe: Connection, answer: Answer) -> None:
    # plain pickle: the pipe's own would put every tensor into shared memory, which may be small
    pipe.send_bytes(pickle.dumps(answer))
