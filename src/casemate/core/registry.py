"""The list of methods, made by the decorators on them."""

import difflib
import importlib
import inspect
import math
import pkgutil
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from types import ModuleType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_type_hints

from annotated_types import Ge
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from casemate.core.errors import UnknownMethod, UsageError
from casemate.core.threat import parse_eps
from casemate.ops.norms import Norm

F = TypeVar("F", bound=Callable[..., Any])
Family = Literal[
    "evasion", "universal", "semantic", "physical", "malware", "poisoning", "targeted", "backdoor", "membership",
    "training", "serving", "screening", "repair", "scanning",
]  # fmt: skip
# families of the attacks that a defence answers, where it does not say itself (`against`)
ANSWERS: dict[Family, tuple[Family, ...]] = {
    "training": ("evasion", "universal", "semantic", "physical"),
    "serving": ("evasion",),
    "screening": ("poisoning", "backdoor"),
    "repair": ("backdoor",),
    "scanning": ("backdoor",),
}
# what the harness passes; everything else that is keyword-only is a parameter of the method
HARNESS = frozenset({"rng", "tick"})


@dataclass(frozen=True)
class Paper:
    """A publication that describes a method."""

    title: str
    authors: str
    year: int
    url: str

    @property
    def citation(self) -> str:
        """One line for a reference list."""
        return f"{self.authors}: {self.title}. {self.year}. {self.url}"


class Cost(BaseModel):
    """Passes per row that a method spends with given parameters on a row it never fools.

    `exact` is False where the data decides how many passes are needed (a search that stops, a start
    that is not found): then the numbers are the most it may spend.
    """

    model_config = ConfigDict(frozen=True)

    queries: int
    gradients: int = 0
    exact: bool = True


@dataclass(frozen=True)
class Entry:
    """Everything casemate knows about a method, read from its function."""

    family: Family
    name: str
    run: Callable[..., Any]
    access: type
    params: type[BaseModel]
    papers: tuple[Paper, ...]
    norms: tuple[Norm, ...] = ()
    known_as: tuple[str, ...] = ()
    minimum_norm: bool = False
    coarse: bool = False
    cost: Callable[[Any, int], Cost] | None = None
    version: int = 1
    against: tuple[Family, ...] = ()
    summary: str = ""
    details: str = ""
    module: str = ""

    @property
    def id(self) -> str:
        """Family and name, as plans and commands write it."""
        return f"{self.family}.{self.name}"

    @property
    def answers(self) -> tuple[Family, ...]:
        """Families of the attacks that a defence answers; none for an attack."""
        return self.against or ANSWERS.get(self.family, ())

    def unusual(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Pick the parameters that are not at their defaults."""
        fields = self.params.model_fields
        usual = {k: _listed(field.default) for k, field in fields.items()}
        return {k: v for k, v in params.items() if k not in usual or usual[k] != _listed(v)}

    def validate(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Check parameters and fill in defaults; raises UsageError naming what is wrong.

        Where a number or a list of them is asked for, fractions such as "8/255" will do.
        """
        try:
            return self.params.model_validate(self._without_fractions(params)).model_dump()
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            if first["type"] == "extra_forbidden":
                known = ", ".join(self.params.model_fields) or "none"
                raise UsageError(f"{self.id} has no parameter '{where}'. Its parameters: {known}.") from None
            got = first["input"]
            levels = where == "eps" and isinstance(got, int | float) and 1 < got <= 255 and got == int(got)
            raise UsageError(
                f"The '{where}' parameter of {self.id}: {first['msg'].lower()}. "
                f"Got {f'{got:g}; did you mean {got:g}/255?' if levels else f'{got!r}.'}"
            ) from None

    def _without_fractions(self, params: Mapping[str, Any]) -> dict[str, Any]:
        plain = dict(params)
        for name, value in params.items():
            field = self.params.model_fields.get(name)
            kinds = () if field is None else (field.annotation, *_leaves(field.annotation))
            if float in kinds:
                try:
                    plain[name] = _read(value)
                except UsageError:
                    raise UsageError(
                        f"The '{name}' parameter of {self.id}: must be a number or a fraction such as 8/255. "
                        f"Got {value!r}."
                    ) from None
        return plain


def _read(value: Any) -> Any:
    """Give the number that a fraction stands for, in lists as well; other values stay."""
    if isinstance(value, list | tuple):
        return tuple(map(_read, value))
    if not (isinstance(value, str) and "/" in value):
        return value
    number = parse_eps(value)
    if not math.isfinite(number):
        raise UsageError(f"A fraction must be finite. Got {value!r}.")
    return number


def _leaves(kind: Any) -> tuple[Any, ...]:
    """Give the types that a union or an annotated type is made of."""
    return tuple(leaf for part in get_args(kind) for leaf in (part, *_leaves(part)))


_ENTRIES: dict[str, Entry] = {}


def _register(
    family: Family,
    *,
    papers: tuple[Paper, ...],
    norms: tuple[Norm, ...] = (),
    known_as: tuple[str, ...] = (),
    minimum_norm: bool = False,
    coarse: bool = False,
    cost: Callable[[Any, int], Cost] | None = None,
    version: int = 1,
    asked: Mapping[str, tuple[Any, Any, str]] | None = None,
    against: tuple[Family, ...] = (),
) -> Callable[[F], F]:
    def keep(run: F) -> F:
        hints = get_type_hints(run, include_extras=True)
        first = next(iter(inspect.signature(run).parameters))
        summary, details, args = _docstring(run)
        entry = Entry(
            family, run.__name__, run, hints[first], _params(run, hints, args, asked or {}), papers, norms,
            known_as, minimum_norm, coarse, cost, version, against, summary, details, run.__module__,
        )  # fmt: skip
        known = _ENTRIES.get(entry.id)
        if known is not None and known.module != entry.module:
            raise RuntimeError(f"Two methods are called {entry.id}: in {known.module} and {entry.module}.")
        _ENTRIES[entry.id] = entry
        return run

    return keep


def evasion(
    *,
    norms: tuple[Norm, ...],
    papers: tuple[Paper, ...],
    cost: Callable[[Any, int], Cost],
    known_as: tuple[str, ...] = (),
    minimum_norm: bool = False,
    coarse: bool = False,
    version: int = 1,
) -> Callable[[F], F]:
    """Register an evasion attack (see `core.forms.EvasionAttack`).

    Args:
        norms: norms of the budgets it accepts.
        papers: its sources, the defining one first.
        cost: parameters and number of classes -> passes per row (see `Cost`).
        known_as: other names in the literature.
        minimum_norm: it looks for the nearest example, for any radius.
        coarse: it needs no more than the gradient's rough direction, so that a bfloat16 copy of the
            target may steer it.
        version: raised when a change alters results, so that stored ones are not reused.

    Returns:
        A decorator that registers a function and returns it unchanged.
    """
    return _register(
        "evasion", papers=papers, norms=norms, known_as=known_as, minimum_norm=minimum_norm,
        coarse=coarse, cost=cost, version=version,
    )  # fmt: skip


def _plain(family: Family) -> Callable[..., Callable[[F], F]]:
    def decorator(
        *, papers: tuple[Paper, ...], known_as: tuple[str, ...] = (), version: int = 1
    ) -> Callable[[F], F]:
        return _register(family, papers=papers, known_as=known_as, version=version)

    decorator.__doc__ = f"Register a method of the family '{family}' (see `core.forms`)."
    return decorator


Wish = Literal["any class but its own", "either", "one class"]
_TARGETS: dict[Wish, tuple[Any, Any, str]] = {
    "either": (
        Annotated[int, Ge(0)] | None, None,
        "class that the adversary wants every input to be given, in 0 .. K - 1; None means any but its own.",
    ),
    "one class": (
        Annotated[int, Ge(0)], 0,
        "class that the adversary wants every input to be given, in 0 .. K - 1.",
    ),
}  # fmt: skip


def universal(
    *,
    papers: tuple[Paper, ...],
    norms: tuple[Norm, ...] = (),
    known_as: tuple[str, ...] = (),
    wish: Wish = "either",
    version: int = 1,
) -> Callable[[F], F]:
    """Register a universal attack (see `core.forms.UniversalAttack`).

    Args:
        papers: its sources, the defining one first.
        norms: norms of the balls it accepts; none where its budget is another one.
        known_as: other names in the literature.
        wish: the goals it can pursue. Where a class can be named, the entry has a parameter `target`
            besides those of the function: the harness reads it and makes the goal from it.
        version: raised when a change alters results, so that stored ones are not reused.

    Returns:
        A decorator that registers a function and returns it unchanged.
    """
    asked = {"target": _TARGETS[wish]} if wish in _TARGETS else {}
    return _register("universal", papers=papers, norms=norms, known_as=known_as, version=version, asked=asked)


semantic = _plain("semantic")
physical = _plain("physical")
malware = _plain("malware")
poisoning = _plain("poisoning")
targeted = _plain("targeted")
backdoor = _plain("backdoor")
membership = _plain("membership")


def training(
    *,
    papers: tuple[Paper, ...],
    known_as: tuple[str, ...] = (),
    against: tuple[Family, ...] = (),
    version: int = 1,
) -> Callable[[F], F]:
    """Register a way to train a model with a defence (see `core.forms`).

    Args:
        papers: its sources, the defining one first.
        known_as: other names in the literature.
        against: families of the attacks that it answers; none means those that training answers in
            general, which are attacks on any finished classifier.
        version: raised when a change alters results, so that stored ones are not reused.

    Returns:
        A decorator that registers a function and returns it unchanged.
    """
    return _register("training", papers=papers, known_as=known_as, version=version, against=against)


def screening(
    *,
    papers: tuple[Paper, ...],
    known_as: tuple[str, ...] = (),
    against: tuple[Family, ...] = (),
    version: int = 1,
) -> Callable[[F], F]:
    """Register a way to find poisoned rows of a training set (see `core.forms`).

    Args:
        papers: its sources, the defining one first.
        known_as: other names in the literature.
        against: families of the attacks whose poisons it can see; none means poisoning and backdoors.
        version: raised when a change alters results, so that stored ones are not reused.

    Returns:
        A decorator that registers a function and returns it unchanged.
    """
    return _register("screening", papers=papers, known_as=known_as, version=version, against=against)


serving = _plain("serving")
repair = _plain("repair")
scanning = _plain("scanning")


def _params(
    run: Callable[..., Any],
    hints: Mapping[str, Any],
    args: Mapping[str, str],
    asked: Mapping[str, tuple[Any, Any, str]],
) -> type[BaseModel]:
    """Make the model of a method's settings; `asked` are those that the harness reads for it."""
    fields: dict[str, Any] = {
        name: (kind, Field(default=default, description=text))
        for name, (kind, default, text) in asked.items()
    }
    for name, parameter in inspect.signature(run).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY and name not in HARNESS:
            default = ... if parameter.default is parameter.empty else parameter.default
            fields[name] = (hints[name], Field(default=default, description=args.get(name, "")))
    config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)
    return create_model(f"{run.__name__}_params", __config__=config, **fields)


def _docstring(run: Callable[..., Any]) -> tuple[str, str, dict[str, str]]:
    """Split a Google docstring into its first line, its prose and its arguments."""
    text = inspect.getdoc(run) or ""
    head, _, rest = text.partition("\nArgs:\n")
    summary, _, details = head.partition("\n")
    block = re.split(r"\n\w+:\n", rest)[0]
    args: dict[str, str] = {}
    for item in re.split(r"\n(?=    \S)", "\n" + block):
        name, _, help_ = item.strip().partition(":")
        if help_:
            args[name] = " ".join(help_.split())
    return summary.strip(), details.strip(), args


def load(package: ModuleType) -> None:
    """Import every module below `package`, so that its methods register themselves."""
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)


@cache
def load_all() -> None:
    """Load casemate's own methods and those of installed plug-ins (group `casemate.methods`), once.

    A plug-in that cannot be loaded is warned of and left out.
    """
    for name in ("casemate.attacks", "casemate.defences"):
        load(importlib.import_module(name))
    for point in entry_points(group="casemate.methods"):
        try:
            point.load()
        except Exception as error:
            warnings.warn(
                f"The plug-in {point.value} cannot be loaded: {type(error).__name__}: {error}", stacklevel=2
            )


def entries(family: str | None = None) -> list[Entry]:
    """List the methods of a family, or all, by id."""
    load_all()
    return [e for _, e in sorted(_ENTRIES.items()) if family in (None, e.family)]


def find(name: str) -> Entry:
    """Look a method up by id, name or any name the literature gives it.

    Raises UnknownMethod if nothing is called so; the message offers the nearest names.
    """
    wanted = _plain_name(name)
    names = {
        _plain_name(alias): entry
        for entry in reversed(entries())
        for alias in (*entry.known_as, entry.name, entry.id)
    }
    if wanted in names:
        return names[wanted]
    near = [names[n].id for n in difflib.get_close_matches(wanted, names, n=5, cutoff=0.5)]
    hint = f" Nearest: {', '.join(dict.fromkeys(near))}." if near else " See `casemate list`."
    raise UnknownMethod(f"No method is called '{name}'.{hint}")


def _listed(value: Any) -> Any:
    """Give a tuple as the list that it is in a file."""
    return [_listed(each) for each in value] if isinstance(value, list | tuple) else value


def _plain_name(name: str) -> str:
    return re.sub(r"[^a-z0-9.+]", "", name.lower())
