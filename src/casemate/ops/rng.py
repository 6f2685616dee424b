"""Deterministic random numbers: named seeds, and one stream per row.

A row's numbers depend on its seed only, never on its neighbours, the batch size, the order of the
rows or the rows that have left the batch. The global generators are left as they were.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Generator, Tensor


def seed_of(seed: int, *path: str | int) -> int:
    """Derive a 63-bit seed from a base seed and a path of names."""
    text = "/".join([str(seed), *map(str, path)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *path: str | int) -> Generator:
    """Make a CPU generator for the stream that `path` names."""
    return Generator().manual_seed(seed_of(seed, *path))


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators for the time being, for layers that draw from nothing else.

    They are put back afterwards, also when an error passes through.
    """
    cards = range(torch.cuda.device_count()) if device.type == "cuda" else ()
    with torch.random.fork_rng(devices=cards):
        torch.default_generator.manual_seed(seed)
        if cards:
            torch.cuda.manual_seed_all(seed)
        yield


def batches(n: int, batch: int, steps: int, rng: Generator) -> list[Tensor]:
    """Choose the rows of each step: whole batches of one shuffle after another."""
    size = min(batch, n)
    found: list[Tensor] = []
    while n and len(found) < steps:
        found += [part for part in torch.randperm(n, generator=rng).split(size) if len(part) == size]
    return found[:steps]


class RowGenerator:
    """Independent random streams, one for each of N rows.

    `rng[rows]` is a view on some of the streams: drawing from it advances those rows only. Draw in
    blocks where a loop needs many small numbers; every draw costs one call per row.
    """

    def __init__(self, streams: Sequence[Generator]) -> None:
        self._streams = list(streams)

    def __len__(self) -> int:
        return len(self._streams)

    def __getitem__(self, rows: slice | Tensor) -> "RowGenerator":
        if isinstance(rows, slice):
            return RowGenerator(self._streams[rows])
        index = rows.nonzero().flatten() if rows.dtype == torch.bool else rows
        return RowGenerator([self._streams[i] for i in index.tolist()])

    def uniform(self, *shape: int) -> Tensor:
        """Draw (N, *shape) float32 values uniformly from [0, 1)."""
        # in place: as many small tensors, and a copy of them all, take half as long again
        draws = torch.empty(len(self._streams), *shape)
        for row, stream in zip(draws.unbind(), self._streams, strict=True):
            row.uniform_(generator=stream)
        return draws

    def normal(self, *shape: int) -> Tensor:
        """Draw (N, *shape) float32 values from the standard normal distribution."""
        draws = torch.empty(len(self._streams), *shape)
        for row, stream in zip(draws.unbind(), self._streams, strict=True):
            row.normal_(generator=stream)
        return draws

    def integers(self, high: int, *shape: int) -> Tensor:
        """Draw (N, *shape) int64 values uniformly from 0 .. high - 1."""
        draws = [torch.randint(high, shape, generator=g) for g in self._streams]
        return torch.stack(draws) if draws else torch.zeros(0, *shape, dtype=torch.int64)

    def sign(self, *shape: int) -> Tensor:
        """Draw (N, *shape) float32 values from {-1, +1}."""
        return self.integers(2, *shape).float() * 2 - 1


def rows(seed: int, count: int | Sequence[int] | Tensor, *path: str | int) -> RowGenerator:
    """Make one stream per row: for rows 0 .. count - 1, or for the row numbers given."""
    numbers = range(count) if isinstance(count, int) else [int(i) for i in count]
    return RowGenerator([generator(seed, *path, i) for i in numbers])
