"""What no method may touch or say, whatever its family."""

import contextlib
import io
import random
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Generator, Tensor

from casemate.core.errors import Cancelled


def generator(seed: int = 0) -> Generator:
    """A private stream of random numbers."""
    return Generator().manual_seed(seed)


def stop(step: int, total: int, values: Mapping[str, float], /) -> None:
    """Cancel the work at its first step."""
    raise Cancelled("enough")


@contextlib.contextmanager
def untouched() -> Iterator[None]:
    """Assert that the block leaves the global random generators alone and says nothing."""
    # a state that no seed gives, so that seeding shows
    torch.rand(7), np.random.rand(7), random.random()  # noqa: NPY002
    torch_, numpy_, python = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        yield
    assert torch.equal(torch.get_rng_state(), torch_), "torch's random state changed"
    after = np.random.get_state()  # noqa: NPY002
    assert all(np.array_equal(a, b) for a, b in zip(after, numpy_, strict=True)), (
        "numpy's random state changed"
    )
    assert random.getstate() == python, "python's random state changed"
    assert said.getvalue() == "", "a method prints"


def bits(*tensors: Tensor) -> list[bytes]:
    """Contents of tensors, to be compared after something ran."""
    return [t.detach().cpu().contiguous().numpy().tobytes() for t in tensors]
