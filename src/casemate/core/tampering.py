"""What a targeted poisoner may do, and to what kind of victim."""

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le
from pydantic import BaseModel, ConfigDict, field_validator

from casemate.core.threat import format_eps, parse_eps

VictimKind = Literal["frozen", "scratch"]
Knowledge = Literal["extractor", "data"]
VICTIMS: dict[tuple[VictimKind, Knowledge], str] = {
    ("frozen", "extractor"): "a new head on a frozen extractor that the adversary knows",
    ("frozen", "data"): "a new head on a frozen extractor that the adversary does not know",
    ("scratch", "extractor"): "trained from scratch",
    ("scratch", "data"): "trained from scratch",
}


class Tampering(BaseModel):
    """Change the pixels of a few training rows, and leave their labels and the aim itself alone.

    The adversary chooses at most `poisons` rows for each aim and moves each of their values by at most
    `eps`, in units of x. The `victim` is trained on what comes of it: "frozen" is a new head for two
    classes, on the features of an extractor that has not seen these classes (or, where the data has
    fewer than four classes, on those of one trained on other rows), with `per_class` rows of each. The
    two `classes` are drawn unless they are named;
    "scratch" trains all weights on all rows and classes. The adversary of a frozen victim `knows` its
    "extractor", or only the "data" and the kind of net, and then trains extractors of its own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    poisons: Annotated[int, Ge(0)]
    eps: Annotated[float, Ge(0), Le(1)]
    victim: VictimKind = "frozen"
    knows: Knowledge = "extractor"
    per_class: Annotated[int, Gt(1)] = 50
    classes: tuple[int, int] | None = None

    @field_validator("eps", mode="before")
    @classmethod
    def _number(cls, value: float | str) -> float:
        return parse_eps(value)

    def __str__(self) -> str:
        """Write the budget as people read it."""
        rows = f"{self.poisons} training row{'s' if self.poisons != 1 else ''}"
        seen = VICTIMS[self.victim, self.knows]
        return f"{rows} changed by linf {format_eps(self.eps)}, labels kept; victim: {seen}"
