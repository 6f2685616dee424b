"""The registry: what a decorator reads from a function, and how methods are found."""

from typing import Annotated

import pytest
from annotated_types import Ge, Gt
from torch import Tensor

from casemate.core import registry
from casemate.core.errors import UnknownMethod, UsageError
from casemate.core.registry import Cost, Entry, Paper, entries, evasion, find
from casemate.core.target import LabelOracle, ScoreOracle
from casemate.core.threat import Goal, Lp
from casemate.core.tick import Tick, ignore
from casemate.ops.rng import RowGenerator

PAPER = Paper("On nudging", "Doe, Roe", 2020, "https://example.org/nudge")


@pytest.fixture(autouse=True)
def _empty(monkeypatch):
    """Work on a registry of its own; casemate's methods are loaded, and so not registered again."""
    registry.load_all()
    monkeypatch.setattr(registry, "_ENTRIES", {})


def register(**settings) -> Entry:
    @evasion(
        norms=("linf",), papers=(PAPER,), cost=lambda p, classes: Cost(queries=p.steps * classes), **settings
    )
    def nudge(
        oracle: ScoreOracle,
        x: Tensor,
        goal: Goal,
        budget: Lp,
        /,
        *,
        steps: Annotated[int, Ge(1)] = 5,
        size: Annotated[float, Gt(0)] | None = None,
        rng: RowGenerator,
        tick: Tick = ignore,
    ) -> Tensor:
        """Nudge each value a little.

        The idea, in a sentence.

        Args:
            oracle: access.
            x: inputs.
            goal: wish.
            budget: ball.
            steps: number of nudges, as many
                as fit on two lines.
            size: length of a nudge, in units of `x`; None: a tenth.
            rng: not used.
            tick: called after each nudge.

        Returns:
            The inputs.
        """
        return x

    return registry._ENTRIES["evasion.nudge"]


def test_an_entry_is_read_from_the_function():
    entry = register()
    assert (entry.family, entry.name, entry.id) == ("evasion", "nudge", "evasion.nudge")
    assert entry.access is ScoreOracle
    assert issubclass(entry.access, LabelOracle)
    assert (entry.summary, entry.details) == ("Nudge each value a little.", "The idea, in a sentence.")
    assert entry.papers[0].citation == "Doe, Roe: On nudging. 2020. https://example.org/nudge"


def test_parameters_are_the_keywords_but_what_the_harness_passes():
    fields = register().params.model_fields
    assert list(fields) == ["steps", "size"]
    assert fields["steps"].description == "number of nudges, as many as fit on two lines."
    assert fields["size"].description == "length of a nudge, in units of `x`; None: a tenth."


def test_missing_parameters_get_their_defaults():
    assert register().validate({"size": 0.5}) == {"steps": 5, "size": 0.5}


def test_only_what_differs_from_the_defaults_is_unusual():
    entry = register()
    assert entry.unusual(entry.validate({})) == {}
    assert entry.unusual({"steps": 7, "size": None, "later": 1}) == {"steps": 7, "later": 1}


def test_a_value_outside_its_bounds_is_named():
    message = "The 'steps' parameter of evasion.nudge: input should be greater than or equal to 1. Got 0."
    with pytest.raises(UsageError) as caught:
        register().validate({"steps": 0})
    assert str(caught.value) == message


def test_an_unknown_parameter_is_answered_with_the_known_ones():
    with pytest.raises(UsageError, match=r"no parameter 'step'\. Its parameters: steps, size\."):
        register().validate({"step": 3})


def test_the_cost_follows_the_parameters():
    entry = register()
    assert entry.cost is not None
    assert entry.cost(entry.params(steps=3), 10) == Cost(queries=30)


@pytest.mark.parametrize("name", ["evasion.nudge", "nudge", "NUDGE", "Gentle push", "gentle-push"])
def test_a_method_answers_to_all_its_names(name):
    entry = register(known_as=("Gentle Push",))
    assert find(name) is entry


def test_an_unknown_name_is_answered_with_the_nearest():
    register()
    with pytest.raises(UnknownMethod, match=r"No method is called 'nudgee'\. Nearest: evasion\.nudge\."):
        find("nudgee")
    with pytest.raises(LookupError, match="casemate list"):
        find("qqqq")


def test_methods_are_listed_by_family():
    entry = register()
    assert entries() == entries("evasion") == [entry]
    assert entries("backdoor") == []


def test_two_methods_of_one_name_are_refused(monkeypatch):
    entry = register()
    monkeypatch.setitem(
        registry._ENTRIES, "evasion.nudge", Entry(**{**vars(entry), "module": "somewhere.else"})
    )
    with pytest.raises(RuntimeError, match=r"Two methods are called evasion\.nudge"):
        register()


def test_registering_again_from_the_same_file_replaces():
    register(version=1)
    assert register(version=2).version == 2
    assert len(registry._ENTRIES) == 1


def test_the_decorator_returns_the_function_itself():
    def stay(oracle: LabelOracle, x: Tensor, goal: Goal, budget: Lp, /, *, rng: RowGenerator) -> Tensor:
        """Stay."""
        return x

    decorate = evasion(norms=("l2",), papers=(PAPER,), cost=lambda p, classes: Cost(queries=0))
    assert decorate(stay) is stay
