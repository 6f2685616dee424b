"""What an adversary may do to a picture that is printed and photographed."""

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le
from pydantic import BaseModel, ConfigDict, Field, field_validator

from casemate.core.channel import Channel
from casemate.core.errors import UsageError
from casemate.core.threat import format_eps, parse_eps

Wish = Literal["misclassify", "become"]


class Print(BaseModel):
    """Change every value of a picture within a ball before it is printed.

    The change lies within `eps`, in units of x, in `norm`. The adversary knows the ranges of the
    `channel` but not the draw; with the wish "become" the photograph must be given a class that the
    judge draws for each picture, with "misclassify" any class but its own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    norm: Literal["linf", "l2"] = "linf"
    eps: Annotated[float, Ge(0)]
    channel: Channel = Field(default_factory=Channel)
    wish: Wish = "misclassify"

    @field_validator("eps", mode="before")
    @classmethod
    def _number(cls, value: float | str) -> float:
        return parse_eps(value)

    def model_post_init(self, context: object, /) -> None:
        """Refuse radii that no printed picture needs."""
        if (self.norm == "linf" and self.eps > 1) or self.eps == float("inf"):
            raise UsageError(
                f"The 'eps' of a print must be finite, and at most 1 in linf, in units of x. Got {self.eps:g}."
            )

    def __str__(self) -> str:
        """Write the budget as people read it."""
        return f"{self.norm} {format_eps(self.eps)}, then printed and photographed"


class Sticker(BaseModel):
    """Cover a share of a picture's pixels with colours at will before it is photographed.

    At most `area` of the pixels, a share in (0, 1], may change, and each may change to anything.
    `channel` and `wish` are as for a print.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    area: Annotated[float, Gt(0), Le(1)]
    channel: Channel = Field(default_factory=Channel)
    wish: Wish = "misclassify"

    def pixels(self, height: int, width: int) -> int:
        """Number of pixels of a picture that may change."""
        return int(self.area * height * width + 1e-9)

    def __str__(self) -> str:
        """Write the budget as people read it."""
        return f"stickers on {100 * self.area:g}% of the pixels, then photographed"


PhysicalBudget = Print | Sticker
