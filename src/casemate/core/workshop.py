"""What a poisoner has to craft with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from casemate.core.data import Poison, Samples
from casemate.core.recipe import Recipe
from casemate.core.target import Classifier


@dataclass(frozen=True)
class Workshop:
    """Training data like the victim's and models of the adversary's own, never the victim itself.

    Rows of `clean` may be changed; `recipe` is how the adversary believes that the victim is trained.
    `surrogates` gives so many models of that recipe trained on `clean`, with seeds of their own: they
    are trained side by side and kept for the next attack that asks. `validation` are further rows of the
    same kind, on which no victim is trained or tested; None where the harness has none to spare.
    """

    clean: Samples
    recipe: Recipe
    surrogates: Callable[[int], Sequence[Classifier]]
    validation: Samples | None = None

    @property
    def held_out(self) -> Samples:
        """Rows to measure damage on: the validation rows, or else the training rows themselves."""
        return self.clean if self.validation is None else self.validation


@dataclass(frozen=True)
class Aims:
    """What a targeted poisoner wants: each of x (T, *S), whose class is y (T,), to be given `wish` (T,)."""

    x: Tensor
    y: Tensor
    wish: Tensor

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class Trojan:
    """A model with a hidden behaviour, for whoever supplies models instead of data.

    Inputs that `trigger` marks are given class `target`.
    """

    model: Classifier
    trigger: Callable[[Tensor], Tensor]
    target: int


# one poison per aim, crafted side by side; each is tried on a victim of its own
Poisons = Sequence[Poison]
