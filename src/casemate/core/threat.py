"""What an adversary wants and what it may spend."""

from collections.abc import Callable
from typing import Any, Literal, Protocol, Self, assert_never

import torch
from pydantic import BaseModel, ConfigDict, PositiveInt, field_validator
from torch import Tensor

from casemate.core.errors import NotApplicable, UsageError
from casemate.ops import losses
from casemate.ops.norms import Norm

Loss = Literal["ce", "margin", "dlr"]
ROUNDING = 10  # units in the last place of the largest logit by which two evaluations may differ


class Goal(Protocol):
    """An adversary's wish for each row."""

    def reached(self, logits: Tensor) -> Tensor:
        """Tell for logits (N, K) which rows grant the wish, (N,) bool."""

    def loss(self, logits: Tensor, kind: Loss = "ce") -> Tensor:
        """Measure nearness to the goal for logits (N, K): (N,), higher = nearer."""

    def __getitem__(self, rows: slice | Tensor) -> Self:
        """Restrict the goal to some rows."""

    def to(self, device: torch.device) -> Self:
        """Give the goal on a device."""


class Misclassify:
    """Wish that each row be given any class but its own."""

    def __init__(self, y: Tensor) -> None:
        self.y = y

    def __getitem__(self, rows: slice | Tensor) -> "Misclassify":
        return Misclassify(self.y[rows])

    def to(self, device: torch.device) -> "Misclassify":
        """Give the goal on a device."""
        return Misclassify(self.y.to(device))

    def reached(self, logits: Tensor) -> Tensor:
        """Tell which rows of `logits` (N, K) are misclassified, (N,) bool; NaN is no success."""
        return (logits.argmax(1) != self.y) & logits.isfinite().all(1)

    def loss(self, logits: Tensor, kind: Loss = "ce") -> Tensor:
        """Measure nearness to misclassification, (N,).

        `ce` is the log-odds of error: per row it rises and falls with cross-entropy but does not
        saturate. Its gradient has the same direction, up to where logits are so far apart that the
        direction would depend on their scale (see `ops.losses.steering_odds`).
        """
        match kind:
            case "ce":
                return losses.steering_odds(logits, self.y)
            case "margin":
                return losses.margin(logits, self.y)
            case "dlr":
                return losses.dlr(logits, self.y)
        assert_never(kind)


class Become:
    """Wish that each row be given a class of the adversary's choice."""

    def __init__(self, t: Tensor) -> None:
        self.t = t

    def __getitem__(self, rows: slice | Tensor) -> "Become":
        return Become(self.t[rows])

    def to(self, device: torch.device) -> "Become":
        """Give the goal on a device."""
        return Become(self.t.to(device))

    def reached(self, logits: Tensor) -> Tensor:
        """Tell which rows of `logits` (N, K) are given their target class, (N,) bool."""
        return (logits.argmax(1) == self.t) & logits.isfinite().all(1)

    def loss(self, logits: Tensor, kind: Loss = "ce") -> Tensor:
        """Measure nearness to the target class, (N,): the negated loss of that class.

        `dlr` is the targeted ratio, from the best other class. The negated ratio of the class itself
        would be -1, without a gradient, wherever the target class is third best.
        """
        if kind == "dlr":
            best_other = losses.others(logits, self.t).argmax(1)
            return losses.targeted_dlr(logits, best_other, self.t)
        return -Misclassify(self.t).loss(logits, kind)


class Towards:
    """Another goal, pursued by way of a class: leave class `y` (N,) for class `t` (N,).

    The wish is granted as the other goal says; only the loss is that of the chosen direction.
    """

    def __init__(self, goal: Goal, y: Tensor, t: Tensor) -> None:
        self.goal, self.y, self.t = goal, y, t

    def __getitem__(self, rows: slice | Tensor) -> "Towards":
        return Towards(self.goal[rows], self.y[rows], self.t[rows])

    def to(self, device: torch.device) -> "Towards":
        """Give the goal on a device."""
        return Towards(self.goal.to(device), self.y.to(device), self.t.to(device))

    def reached(self, logits: Tensor) -> Tensor:
        """Tell which rows of `logits` (N, K) reach the other goal, (N,) bool."""
        return self.goal.reached(logits)

    def loss(self, logits: Tensor, kind: Loss = "dlr") -> Tensor:
        """Measure nearness of class `t`, (N,); `dlr` is the targeted ratio of Croce & Hein 2020."""
        match kind:
            case "ce":
                return -losses.steering_odds(logits, self.t)
            case "margin":
                return losses.picked(logits, self.t) - losses.picked(logits, self.y)
            case "dlr":
                return losses.targeted_dlr(logits, self.y, self.t)
        assert_never(kind)


class NeverReached:
    """Another goal's loss without its end: attacks run all their steps on every row.

    For examples that must be far over the boundary and not just behind it, as transfer to another
    model and adversarial training need.
    """

    def __init__(self, goal: Goal) -> None:
        self.goal = goal

    def __getitem__(self, rows: slice | Tensor) -> "NeverReached":
        return NeverReached(self.goal[rows])

    def to(self, device: torch.device) -> "NeverReached":
        """Give the goal on a device."""
        return NeverReached(self.goal.to(device))

    def reached(self, logits: Tensor) -> Tensor:
        """Tell that no row of `logits` (N, K) is done, (N,) bool."""
        return torch.zeros(len(logits), dtype=torch.bool, device=logits.device)

    def loss(self, logits: Tensor, kind: Loss = "ce") -> Tensor:
        """Measure nearness to the other goal, (N,)."""
        return self.goal.loss(logits, kind)


class Clearly:
    """Another goal, granted only where its margin exceeds what rounding may take back.

    A search for the nearest example ends on the boundary itself, where another batch size or a
    compiled forward may turn the decision. The distance lost by asking for more is of the order of
    the rounding.
    """

    def __init__(self, goal: Goal) -> None:
        self.goal = goal

    def __getitem__(self, rows: slice | Tensor) -> "Clearly":
        return Clearly(self.goal[rows])

    def to(self, device: torch.device) -> "Clearly":
        """Give the goal on a device."""
        return Clearly(self.goal.to(device))

    def reached(self, logits: Tensor) -> Tensor:
        """Tell which rows of `logits` (N, K) reach the other goal by more than rounding, (N,) bool."""
        slack = ROUNDING * torch.finfo(logits.dtype).eps * logits.abs().amax(1)
        return self.goal.reached(logits) & (self.goal.loss(logits, "margin") > slack)

    def loss(self, logits: Tensor, kind: Loss = "ce") -> Tensor:
        """Measure nearness to the other goal, (N,)."""
        return self.goal.loss(logits, kind)


class WithLoss:
    """Another goal, pursued by a loss of one's own: `fn(goal, logits) -> (N,)`, higher = nearer.

    For defences that the usual losses overlook: goal = WithLoss(Misclassify(y), my_loss) goes to any
    attack as it is. `fn` is given the goal restricted to the rows at hand, so it never has to know
    which rows are left. Attacks that steer by margins (FAB, C&W, DeepFool) see the same loss.
    """

    def __init__(self, goal: Goal, fn: Callable[[Any, Tensor], Tensor]) -> None:
        self.goal, self.fn = goal, fn

    def __getitem__(self, rows: slice | Tensor) -> "WithLoss":
        return WithLoss(self.goal[rows], self.fn)

    def to(self, device: torch.device) -> "WithLoss":
        """Give the goal on a device."""
        return WithLoss(self.goal.to(device), self.fn)

    def reached(self, logits: Tensor) -> Tensor:
        """Tell which rows of `logits` (N, K) reach the other goal, (N,) bool."""
        return self.goal.reached(logits)

    def loss(self, logits: Tensor, kind: Loss = "ce") -> Tensor:
        """Measure nearness by the loss that was given, (N,), whatever kind is asked for."""
        return self.fn(self.goal, logits)


def directions(goal: Goal, logits: Tensor, count: int) -> list[Goal]:
    """Split a goal into single classes to go to, the likeliest by `logits` first.

    Args:
        goal: the wish for N rows.
        logits: what the target says of the clean inputs, (N, K).
        count: most classes to go to where the goal allows any of K - 1.

    Returns:
        Goals that are granted as the whole is; a goal that names a class is its own only direction.

    Raises:
        NotApplicable: the goal is not about classes.
    """
    match goal.goal if isinstance(goal, NeverReached | Clearly) else goal:
        case Misclassify(y=y):
            ranked = losses.others(logits, y).topk(min(count, logits.shape[1] - 1), 1).indices
            return [Towards(goal, y, t) for t in ranked.unbind(1)]
        case Become():
            # leaving the best other class at `x` is not enough: a third one may rise above both
            return [goal]
        case _:
            raise NotApplicable(f"{type(goal).__name__} does not name classes to go to")


class Lp(BaseModel):
    """Ball around each input that a perturbation must stay in, inside the box [0, 1].

    `eps` is in units of x; infinity asks a minimum-norm attack for the nearest example.
    `queries` caps the model calls per row.
    """

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")

    norm: Norm
    eps: float
    queries: PositiveInt | None = None

    @field_validator("eps", mode="before")
    @classmethod
    def _number(cls, value: float | str) -> float:
        return parse_eps(value)

    @property
    def radius(self) -> float:
        """The `eps` where it must be finite; asked by attacks that need a ball to work in."""
        if self.eps == float("inf"):
            raise UsageError("The 'eps' of a budget must be finite for this attack. Got inf.")
        return self.eps

    @property
    def enough(self) -> float:
        """Size at which an example leaves a search for the nearest one nothing to win.

        With a finite radius the question is only whether the ball holds an example.
        """
        # the ball's own tolerance: an example on its surface must not be found or missed by rounding
        return 0.0 if self.eps == float("inf") else self.eps * (1 + 1e-6)

    def model_post_init(self, context: object, /) -> None:
        """Refuse radii outside the norm's range."""
        if not self.eps >= 0:
            raise UsageError(f"The 'eps' of a budget must be at least 0, in units of x. Got {self.eps}.")
        if self.norm == "linf" and 1 < self.eps < float("inf"):
            hint = f"; did you mean {self.eps:g}/255?" if self.eps <= 255 else ""
            raise UsageError(
                f"The 'eps' of an linf budget must be in [0, 1], in units of x. Got {self.eps:g}{hint}"
            )


def parse_eps(value: float | str) -> float:
    """Read a radius: a number, or a fraction such as "8/255"."""
    try:
        if isinstance(value, str) and "/" in value:
            top, bottom = value.split("/")
            return float(top) / float(bottom)
        return float(value)
    except (ValueError, TypeError, ZeroDivisionError):
        raise UsageError(f"The 'eps' must be a number or a fraction such as 8/255. Got {value!r}.") from None


def format_eps(eps: float) -> str:
    """Write a radius as people read it: a short decimal, or n/255 where it is one."""
    levels = eps * 255
    if eps == round(eps, 2):
        return f"{eps:g}"
    if eps <= 1 and abs(levels - round(levels)) < 1e-6 and 1 <= round(levels) <= 64:
        return f"{round(levels)}/255"
    return f"{eps:g}"


def within(x_adv: Tensor, x: Tensor, budget: Lp) -> Tensor:
    """Keep candidates (N, *S) that lie in the ball; rows outside it go back to `x`."""
    from casemate.ops.norms import per_row, rounding, size

    fits = size(x_adv - x, budget.norm) <= budget.eps * (1 + 1e-6) + rounding(x, budget.norm)
    return torch.where(per_row(fits, x), x_adv, x)
