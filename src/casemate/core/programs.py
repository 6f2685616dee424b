"""What an adversary may do to a program without changing what it does."""

import ast
import io
import tokenize
import warnings
from collections.abc import Iterator
from functools import lru_cache
from typing import Annotated, Literal, Protocol, runtime_checkable

import torch
from annotated_types import Ge
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from casemate.core.errors import UsageError
from casemate.ops.rng import RowGenerator

Number = Annotated[int, Ge(0)]
PAD = 256  # the token after a file's last byte


class Features(BaseModel):
    """Add features to a program, or take some out, so that it still works.

    Inputs are rows of bits. Only the features numbered in `add` may be set and only those in `remove`
    may be cleared, at most `changes` in all. A pair (a, b) in `implies` says that a program with the
    feature a has b as well, as a call implies the permission it needs: who sets a must set b, who
    clears b must clear a. `malicious` is the class that raises the alarm; all others are benign.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    add: tuple[Number, ...]
    remove: tuple[Number, ...] = ()
    implies: tuple[tuple[Number, Number], ...] = ()
    changes: Number
    malicious: Number = 1

    def __str__(self) -> str:
        """Write the budget as people read it."""
        removed = f", {len(self.remove)} removable" if self.remove else ""
        return f"{self.changes} features, {len(self.add)} addable{removed}"

    def addable(self, x: Tensor, room: Tensor) -> tuple[Tensor, Tensor]:
        """Find the features that may be set next.

        Args:
            x: rows of bits (N, D).
            room: how many more features each row may gain, (N,).

        Returns:
            Which features may be set, with all that they imply, (N, D) bool, and how many each would set.
        """
        allowed, missing = self._mask(x, self.add), (x == 0).float()
        cost, blocked = missing.clone(), (x == 0) & ~allowed
        # few features imply others, and only these need the sums
        causes, reach = _causes(self.implies, self._checked(x.shape[1]))
        causes, reach = causes.to(x.device), reach.to(x.device)
        cost[:, causes] = missing @ reach.T
        blocked[:, causes] = (missing * ~allowed) @ reach.T > 0
        return (x == 0) & ~blocked & (cost <= room[:, None]), cost

    def reach(self, width: int) -> Tensor:
        """Tell which features each feature brings with it, itself among them: (D, D) float."""
        return _reach(self.implies, self._checked(width))

    def close(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Add what newly set features imply: rows of bits (N, D) for candidates for x (N, D)."""
        added = ((x_adv > 0) & (x == 0)).float()
        brought = added @ self.reach(x.shape[1]).to(x.device) > 0
        return torch.where(brought, torch.ones_like(x_adv), x_adv)

    def valid(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Tell which candidates (N, D) for x (N, D) keep every rule, (N,) bool."""
        binary = ((x_adv == 0) | (x_adv == 1)).all(1)
        allowed = (x_adv == x) | torch.where(x == 0, self._mask(x, self.add), self._mask(x, self.remove))
        # what the program itself lacks is no fault of the adversary
        kept = torch.ones_like(binary)
        for part in torch.tensor(self.implies, dtype=torch.int64, device=x.device).view(-1, 2).split(1000):
            cause, effect = part.unbind(1)
            lacking = ((x_adv[:, cause] > 0) & (x_adv[:, effect] == 0)) & ~(
                (x[:, cause] > 0) & (x[:, effect] == 0)
            )
            kept &= ~lacking.any(1)
        return binary & allowed.all(1) & kept & (self.spent(x_adv, x) <= self.changes)

    def spent(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Count the features that differ, (N,)."""
        return (x_adv != x).sum(1)

    def draw(self, x: Tensor, rng: RowGenerator) -> Tensor:
        """Set features at random until no change is left: the baseline of equal budget."""
        order = rng.uniform(x.shape[1]).to(x.device)
        x_adv = x.clone()
        for _ in range(self.changes):
            free, _ = self.addable(x_adv, self.changes - self.spent(x_adv, x))
            if not bool(free.any()):
                break
            best = torch.where(free, order, -1.0).argmax(1)
            chosen = torch.zeros_like(free).scatter_(1, best[:, None], True) & free
            x_adv = self.close(torch.where(chosen, torch.ones_like(x), x_adv), x_adv)
        return x_adv

    def _mask(self, x: Tensor, features: tuple[int, ...]) -> Tensor:
        self._checked(x.shape[1])
        mask = torch.zeros(x.shape[1], dtype=torch.bool, device=x.device)
        mask[list(features)] = True
        return mask

    def _checked(self, width: int) -> int:
        named = [*self.add, *self.remove, *(i for pair in self.implies for i in pair)]
        if named and max(named) >= width:
            raise UsageError(f"The features of a budget must be numbered 0 .. {width - 1}. Got {max(named)}.")
        return width


@lru_cache(maxsize=8)
def _reach(implies: tuple[tuple[int, int], ...], width: int) -> Tensor:
    reach = torch.eye(width)
    for cause, effect in implies:
        reach[cause, effect] = 1
    while True:
        further = (reach @ reach > 0).float()
        if torch.equal(further, reach):
            return reach
        reach = further


@lru_cache(maxsize=8)
def _causes(implies: tuple[tuple[int, int], ...], width: int) -> tuple[Tensor, Tensor]:
    """Features that imply others (M,), and what each brings with it, (M, D) float."""
    causes = torch.tensor(sorted({cause for cause, _ in implies}), dtype=torch.int64)
    return causes, _reach(implies, width)[causes]


class Bytes(BaseModel):
    """Edit bytes of a file that its reader ignores.

    Inputs are rows x (N, L) of byte / 256, with 1 after the file's end. In "python" the bytes of
    comments may become other printable ones and a comment may be appended; the syntax tree must stay
    the same. In "trailing" formats, whose readers stop at an end mark, bytes may be appended. At most
    `edits` bytes differ in all, and the file grows by at most `append` of them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    form: Literal["python", "trailing"]
    edits: Number
    append: Number = 0

    def __str__(self) -> str:
        """Write the budget as people read it."""
        return f"{self.edits} bytes that the {self.form} form ignores"

    def extended(self, x: Tensor) -> Tensor:
        """Append what may be filled at will, and means nothing: a comment of spaces, or spaces."""
        grown = tokens(x)
        mark = b"\n#" if self.form == "python" else b""
        for row, size in enumerate(lengths(x).tolist()):
            count = min(self.append, self.edits, x.shape[1] - size)
            if count > len(mark):
                filling = list(mark + b" " * (count - len(mark)))
                grown[row, size : size + count] = torch.tensor(filling, device=x.device)
        return values(grown).to(x)

    def places(self, x: Tensor, original: Tensor) -> Tensor:
        """Find the positions (N, L) bool where any printable byte may stand, in files grown from others."""
        found = torch.zeros(x.shape, dtype=torch.bool, device=x.device)
        for row, (raw, size) in enumerate(zip(files(x), lengths(original).tolist(), strict=True)):
            if self.form == "trailing":
                found[row, size : len(raw)] = True
                continue
            for start, end in comments(raw):
                found[row, start:end] = True
        return found

    def valid(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Tell which candidates (N, L) are files that mean the same as x (N, L), (N,) bool."""
        whole = (tokens(x_adv) == (x_adv * PAD)).all(1) & (x_adv >= 0).all(1) & (x_adv <= 1).all(1)
        # the end of a file is an end: no padding within
        whole &= ((tokens(x_adv) == PAD).long().diff(dim=1) >= 0).all(1)
        grown = lengths(x_adv) - lengths(x)
        kept = whole & (grown >= 0) & (grown <= self.append) & (self.spent(x_adv, x) <= self.edits)
        for row in kept.nonzero().flatten().tolist():
            before, after = (files(part[row : row + 1])[0] for part in (x, x_adv))
            kept[row] = after.startswith(before) if self.form == "trailing" else same_program(before, after)
        return kept

    def spent(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Count the bytes that differ, (N,)."""
        return (x_adv != x).sum(1)

    def draw(self, x: Tensor, rng: RowGenerator) -> Tensor:
        """Edit at random until the budget is spent: the baseline of equal budget."""
        x_adv = self.extended(x)
        order, new = rng.uniform(x.shape[1]).to(x), printable(x.device)[rng.integers(95, x.shape[1])].to(x)
        grown, free = x_adv != x, self.places(x_adv, x)
        rank = torch.where(free & ~grown, order, 2.0).argsort(1).argsort(1)
        chosen = free & (grown | (rank < (self.edits - grown.sum(1))[:, None]))
        return torch.where(chosen, new, x_adv)


@runtime_checkable
class Confirms(Protocol):
    """A net for which a product's own client can answer as well."""

    def confirm(self, x: Tensor) -> Tensor:
        """Let the client label files x (N, L): classes (N,)."""
        ...


def tokens(x: Tensor) -> Tensor:
    """Read rows of byte / 256 as numbers 0 .. 256, (N, L) int64."""
    return (x * PAD).round().long()


def values(numbers: Tensor) -> Tensor:
    """Write numbers 0 .. 256 as rows in [0, 1]; exact, since 256 is a power of two."""
    return numbers.float() / PAD


def printable(device: torch.device) -> Tensor:
    """List the printable ASCII bytes as values of rows, (95,)."""
    return values(torch.arange(32, 127, device=device))


def lengths(x: Tensor) -> Tensor:
    """Count the bytes of each file, (N,)."""
    return (tokens(x) != PAD).sum(1)


def files(x: Tensor) -> list[bytes]:
    """Give rows x (N, L) as the bytes of files."""
    return [bytes(row[row != PAD].tolist()) for row in tokens(x)]


def rows_of(contents: list[bytes], width: int) -> Tensor:
    """Give files as rows (N, width) of byte / 256; each must fit."""
    numbers = torch.full((len(contents), width), PAD)
    for row, raw in zip(numbers, contents, strict=True):
        row[: len(raw)] = torch.tensor(list(raw), dtype=torch.int64)
    return values(numbers)


def comments(source: bytes) -> Iterator[tuple[int, int]]:
    """Find the insides of a Python program's comments, as ranges of bytes.

    The first two lines are left alone, where a comment may name the interpreter or the encoding.
    """
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    try:
        for token in tokenize.tokenize(io.BytesIO(source).readline):
            row, column = token.start
            if token.type == tokenize.COMMENT and row > 2:
                start = starts[row - 1] + len(token.line[:column].encode())
                yield start + 1, start + len(token.string.encode())
    except (tokenize.TokenError, SyntaxError, UnicodeError):
        return


def same_program(first: bytes, second: bytes) -> bool:
    """Tell whether two Python sources have the same syntax tree."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.dump(ast.parse(first)) == ast.dump(ast.parse(second))
        except (SyntaxError, ValueError):
            return False


Semantics = Features | Bytes
