"""What each family's methods receive and return: the threat model in one signature each."""

from collections.abc import Callable
from typing import Protocol

from torch import Generator, Tensor

from casemate.core.data import Poison, PoisonBudget, Practice, Samples, World
from casemate.core.pasting import Pasting
from casemate.core.physical import PhysicalBudget
from casemate.core.programs import Semantics
from casemate.core.recipe import Recipe
from casemate.core.scanning import Traces
from casemate.core.semantic import SemanticBudget
from casemate.core.tampering import Tampering
from casemate.core.target import Classifier, GradientOracle, LabelOracle, ScoreOracle
from casemate.core.threat import Goal, Lp
from casemate.core.tick import Tick, ignore
from casemate.core.workshop import Aims, Poisons, Workshop
from casemate.ops.rng import RowGenerator


class EvasionAttack(Protocol):
    """Change inputs within a budget so that the target does what the goal says.

    The first parameter's type (LabelOracle, ScoreOracle, GradientOracle) is the access. The result
    (N, *S) is in the ball and in [0, 1]; rows for which nothing was found may be anything in it.
    """

    def __call__(
        self,
        oracle: LabelOracle,
        x: Tensor,
        goal: Goal,
        budget: Lp,
        /,
        *,
        rng: RowGenerator,
        tick: Tick = ignore,
    ) -> Tensor:
        """Return candidates for x."""
        ...


class UniversalAttack(Protocol):
    """Learn from rows x (N, *S) one change, or one network that makes it, for all inputs.

    The result maps inputs never seen (M, *S) to candidates (M, *S), in the budget and in [0, 1],
    without a look at the target. A row's candidate depends on no other row. For a `Pasting` budget it
    is a `core.pasting.Patch`, whose places the harness chooses.
    """

    def __call__(
        self,
        oracle: GradientOracle,
        x: Tensor,
        goal: Goal,
        budget: Lp | Pasting,
        /,
        *,
        rng: Generator,
        tick: Tick = ignore,
    ) -> Callable[[Tensor], Tensor]:
        """Return the map."""
        ...


class SemanticAttack(Protocol):
    """Change inputs x (N, *S) so that the target errs and their meaning stays.

    The budget opens a space of codes (see `core.spaces.space_of`), and the result (N, A) are codes, not
    inputs: the harness clips and decodes them itself, so that what the adversary may not do cannot
    happen. Rows for which nothing was found may have any code.
    """

    def __call__(
        self,
        oracle: LabelOracle,
        x: Tensor,
        goal: Goal,
        budget: SemanticBudget,
        /,
        *,
        rng: RowGenerator,
        tick: Tick = ignore,
    ) -> Tensor:
        """Return codes of candidates."""
        ...


class PhysicalAttack(Protocol):
    """Change pictures so that the target does what the goal says once they were printed and photographed.

    The adversary knows the ranges of the budget's channel, not the way that a picture will go. The
    result (N, C, H, W) keeps the budget and is in [0, 1].
    """

    def __call__(
        self,
        oracle: LabelOracle,
        x: Tensor,
        goal: Goal,
        budget: PhysicalBudget,
        /,
        *,
        rng: RowGenerator,
        tick: Tick = ignore,
    ) -> Tensor:
        """Return pictures to print."""
        ...


class MalwareAttack(Protocol):
    """Change programs within what keeps them working so that the target does what the goal says.

    The adversary has other programs to practise on. The result (N, *S) obeys the budget's rules; a row
    that does not counts as a failure.
    """

    def __call__(
        self,
        oracle: LabelOracle,
        x: Tensor,
        goal: Goal,
        budget: Semantics,
        practice: Practice,
        /,
        *,
        rng: RowGenerator,
        tick: Tick = ignore,
    ) -> Tensor:
        """Return changed programs."""
        ...


class PoisoningAttack(Protocol):
    """Change a share of a training set; also the form of backdoors, whose poison has a trigger."""

    def __call__(
        self, clean: Samples, budget: PoisonBudget, /, *, rng: Generator, tick: Tick = ignore
    ) -> Poison:
        """Return the poison."""
        ...


class TargetedAttack(Protocol):
    """Change a few training rows so that a model trained on them gives each aim the class wished for.

    The result has one poison per aim, crafted side by side; each is tried on a victim of its own. The
    harness cuts changes to the budget, rounds them to 8 bit and puts the rows' own labels back.
    """

    def __call__(
        self,
        workshop: Workshop,
        aims: Aims,
        budget: Tampering,
        /,
        *,
        rng: Generator,
        tick: Tick = ignore,
    ) -> Poisons:
        """Return the poisons."""
        ...


class MembershipAttack(Protocol):
    """Score inputs x (N, *S) with labels y (N,): higher = more likely a training row, (N,)."""

    def __call__(
        self,
        oracle: ScoreOracle,
        x: Tensor,
        y: Tensor,
        world: World,
        /,
        *,
        rng: Generator,
        tick: Tick = ignore,
    ) -> Tensor:
        """Return the scores."""
        ...


class TrainingDefence(Protocol):
    """Change how a model is trained."""

    def __call__(self, recipe: Recipe, /) -> Recipe:
        """Return the changed recipe."""
        ...


class Screening(Protocol):
    """Choose the rows of a training set to keep, (N,) bool, given a model trained on all of it."""

    def __call__(self, model: Classifier, data: Samples, /, *, rng: Generator, tick: Tick = ignore) -> Tensor:
        """Return the mask of rows to keep."""
        ...


class Repair(Protocol):
    """Mend a trained model with a little clean data."""

    def __call__(
        self, model: Classifier, clean: Samples, /, *, rng: Generator, tick: Tick = ignore
    ) -> Classifier:
        """Return the mended model; the given one stays as it is."""
        ...


class Scanning(Protocol):
    """Look for a backdoor in a trained model, with a little clean data and without its training set."""

    def __call__(
        self, model: Classifier, clean: Samples, /, *, rng: Generator, tick: Tick = ignore
    ) -> Traces:
        """Return what was found of each class."""
        ...


class ServingDefence(Protocol):
    """Change how a finished model answers: a step before it, noise around it, a check beside it.

    A defence that draws random numbers while it serves takes them from torch's global generators, as
    dropout does, so that the harness can name each draw (see `core.adaptive.eot`).
    """

    def __call__(self, target: Classifier, /, *, rng: Generator) -> Classifier:
        """Return the defended classifier; the given one stays as it is."""
        ...
