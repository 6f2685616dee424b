"""What an adversary may do who keeps the meaning of an input: changes that leave every ball."""

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le
from pydantic import BaseModel, ConfigDict, PositiveInt

from casemate.core.errors import UsageError

Attribute = Literal["centre", "scale", "angle", "colour", "background", "contrast", "stripes"]


class Latent(BaseModel):
    """Move the code from which a generator makes the input.

    `generator` is a shipped one or a file.safetensors. The code of the input is what the generator's
    inverter says; the new code lies within `radius` of it, in standard deviations of one of its values.
    At most `queries` questions per input.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    generator: str
    radius: Annotated[float, Ge(0)] = 10.0
    queries: PositiveInt | None = None

    def __str__(self) -> str:
        """Write the budget as people read it."""
        return f"whatever {self.generator} makes within {self.radius:g} of the input's code"


class Conditional(BaseModel):
    """Make an input of the same class from nothing.

    `generator` makes it for that class, from a code of length at most `spread` times the root of the number
    of its values, which is the usual length; noise of at most `noise` per value, in units of x, may be added.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    generator: str
    spread: Annotated[float, Gt(0)] = 1.5
    noise: Annotated[float, Ge(0), Le(1)] = 0.0
    queries: PositiveInt | None = None

    def __str__(self) -> str:
        """Write the budget as people read it."""
        noise = f", with noise of linf {self.noise:g}" if self.noise else ""
        return f"whatever {self.generator} makes for the class{noise}"


class Attributes(BaseModel):
    """Draw the same thing again with other attributes.

    `names` may each change by the number at the same place in `limits`, in the attribute's unit, inside
    the range of the data; the label stays by construction. `drawn` and `seed` tell which images the
    renderer drew as data, so that the attributes of each are known.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    renderer: Literal["shapes"] = "shapes"
    names: tuple[Attribute, ...]
    limits: tuple[Annotated[float, Ge(0)], ...]
    drawn: PositiveInt = 3000
    seed: int = 0
    queries: PositiveInt | None = None

    def model_post_init(self, context: object, /) -> None:
        """Refuse names without a limit."""
        if len(self.names) != len(self.limits) or not self.names or len(set(self.names)) < len(self.names):
            raise UsageError(
                f"Attributes need different 'names', and one of 'limits' for each. Got {len(self.names)} "
                f"names and {len(self.limits)} limits."
            )

    def __str__(self) -> str:
        """Write the budget as people read it."""
        changes = ", ".join(f"{n} by {v:g}" for n, v in zip(self.names, self.limits, strict=True))
        return f"the same thing drawn with other attributes: {changes}"


class Colours(BaseModel):
    """Shift the hue and the saturation of a whole picture and leave its brightness.

    `hue` is the largest shift along the circle of hues, 0.5 being all of it, `saturation` the largest
    change of saturation, a number in [0, 1].
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    hue: Annotated[float, Ge(0), Le(0.5)] = 0.5
    saturation: Annotated[float, Ge(0), Le(1)] = 1.0
    queries: PositiveInt | None = None

    def __str__(self) -> str:
        """Write the budget as people read it."""
        return f"hue shifted by {self.hue:g}, saturation by {self.saturation:g}, for the whole picture"


SemanticBudget = Latent | Conditional | Attributes | Colours
