"""What is asked: threats, the attacks that try each, and what must hold; plans are read from TOML."""

import json
import math
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from casemate.assess.result import Requirement
from casemate.assess.surrogates import known
from casemate.core.adaptive import Hooks
from casemate.core.budget import Budget
from casemate.core.errors import UsageError
from casemate.core.pasting import Pasting
from casemate.core.physical import Print, Sticker
from casemate.core.programs import Semantics
from casemate.core.registry import find
from casemate.core.semantic import Attributes, Colours, Conditional, Latent
from casemate.core.tampering import Tampering
from casemate.core.threat import Lp, parse_eps
from casemate.ops.norms import Norm

Layers = Annotated[tuple[str, ...], BeforeValidator(lambda said: (said,) if isinstance(said, str) else said)]


class Ask(BaseModel):
    """One attack with its parameters; `eot` and `bpda` are as in the threat, which they overrule."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str
    params: dict[str, Any] = {}
    eot: int | None = Field(default=None, ge=1)
    bpda: Layers | None = None


class Threat(BaseModel):
    """One question: attacks of a family that share a budget, and the requirement they test.

    `eps` is in units of x, or "auto" for the field's customary radius on such data; a physical threat
    with an `area`, a share of the pixels, is one of stickers instead, a universal one with an `area`
    one of a patch. With `chain` each attack gets only the rows that the ones before it left standing.
    `rates` are shares of the training rows. Poisoning and backdoors have no `rows`: they are judged on
    every test row that can judge them, which leaves out those that the adversary measures damage by and,
    for a trigger, those of its class or wrong without it. A malware threat names its `semantics`, what may be changed,
    or in a plan's file a JSON file that says so. A semantic threat names the `generator` whose codes are
    moved: a shipped one or a file.safetensors. `eot` draws of the target's randomness are averaged in
    each gradient, and gradients go round the layers that `bpda` names by patterns, "auto" for those found
    to stop them; without these settings the checks decide (see `assess.checks.adaptation`). With
    `surrogates` the adversary knows nothing of the target but its data: attacks work on the mean of nets
    of these kinds (see `assess.surrogates`), trained on the training data, and the target only judges. A
    targeted threat states its `tampering`: how many rows change how far, and the victims; its `rows` are
    the aims.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    title: str
    question: str = ""
    family: str
    attacks: tuple[Ask, ...]
    norm: Norm = "linf"
    eps: float | str = "auto"
    area: float | None = Field(default=None, gt=0, le=1)
    queries: int | None = Field(default=None, ge=1)
    semantics: Semantics | None = None
    tampering: Tampering | None = None
    generator: str | None = None
    conditional: Conditional | None = None
    attributes: Attributes | None = None
    colours: Colours | None = None
    rates: tuple[float, ...] = ()
    repeats: int = Field(default=3, ge=1)
    rows: int | None = Field(default=None, ge=1)
    chain: bool = False
    eot: int | None = Field(default=None, ge=1)
    bpda: Layers | None = None
    surrogates: tuple[str, ...] = ()
    require: Requirement

    def hooks(self, ask: Ask, found: Hooks) -> Hooks:
        """Hooks of one attack: as the plan says, else as `found` for the target."""
        draws = (ask.eot, self.eot, found.eot)
        layers = (ask.bpda, self.bpda, found.bpda)
        said: dict[str, Any] = {"eot": next(n for n in draws if n is not None)}
        return found.model_copy(update={**said, "bpda": next(p for p in layers if p is not None)})

    def budget(self, shape: tuple[int, ...]) -> Budget | None:
        """Budget of a threat to inputs of this shape; None for families that change training data."""
        if self.family == "malware":
            return self.semantics
        eps = customary_eps(self.norm, shape) if self.eps == "auto" else parse_eps(self.eps)
        match self.family:
            case "targeted":
                return self.tampering
            case "evasion":
                return Lp(norm=self.norm, eps=eps, queries=self.queries)
            case "universal" if self.area is not None:
                return Pasting(area=self.area)
            case "universal":
                return Lp(norm=self.norm, eps=eps)
            case "physical" if self.area is not None:
                return Sticker(area=self.area)
            case "physical":
                return Print.model_validate({"norm": self.norm, "eps": eps})
            case "semantic" if self.generator is not None:
                return Latent(generator=self.generator, radius=6.0, queries=self.queries)
            case "semantic":
                return self.conditional or self.attributes or self.colours
            case _:
                return None


class Plan(BaseModel):
    """A list of threats, and how many test rows and which seed to use."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    rows: int = Field(default=500, ge=1)
    seed: int = 0
    model: str | None = None
    data: str | None = None
    threats: tuple[Threat, ...]
    not_tested: tuple[tuple[str, str], ...] = ()


def adapting(plan: Plan, eot: int | None, bpda: tuple[str, ...] | None) -> Plan:
    """Give every evasion threat of a plan the same hooks; None leaves what the plan says."""
    said = {name: value for name, value in (("eot", eot), ("bpda", bpda)) if value is not None}
    threats = [t.model_copy(update=said) if t.family == "evasion" else t for t in plan.threats]
    return plan.model_copy(update={"threats": tuple(threats)}) if said else plan


def customary_eps(norm: Norm, shape: tuple[int, ...]) -> float:
    """Radius that the literature uses on inputs of this shape.

    linf: 8/255 on colour images, 0.1 on grey ones and tables. l2: 0.5 on 3x32x32 and 1.0 on
    1x28x28, growing with the square root of the number of values. l1: 12 on 3x32x32 and 10 on
    1x28x28, growing with that number. l0: 2% of the positions.
    """
    colour = len(shape) == 3 and shape[0] == 3
    size = math.prod(shape)
    match norm:
        case "linf":
            return 8 / 255 if colour else 0.1
        case "l2":
            return round(0.5 * math.sqrt(size / 3072) if colour else math.sqrt(size / 784), 3)
        case "l1":
            return round(12 * size / 3072 if colour else 10 * size / 784, 3)
        case "l0":
            return max(1, round(0.02 * (size // shape[0] if len(shape) == 3 else size)))


AUTOATTACK = (
    Ask(method="evasion.apgd", params={"loss": "ce", "steps": 100}),
    Ask(method="evasion.apgd_t", params={"steps": 100, "targets": 9}),
    Ask(method="evasion.fab_t", params={"steps": 100, "targets": 9}),
    Ask(method="evasion.square", params={"queries": 5000}),
)
ENSEMBLES = {"autoattack": AUTOATTACK}

# what may be required of each family, and on which side of the bound the target is safe
METRICS: dict[str, dict[str, Literal["at_least", "at_most"]]] = {
    "evasion": {"robust_accuracy": "at_least"},
    "universal": {"robust_accuracy": "at_least", "success_rate": "at_most", "fooling_rate": "at_most"},
    "physical": {"robust_accuracy": "at_least", "success_rate": "at_most"},
    "semantic": {"robust_accuracy": "at_least", "success_rate": "at_most"},
    "malware": {"robust_accuracy": "at_least", "success_rate": "at_most", "evasion_rate": "at_most"},
    "poisoning": {"accuracy_drop": "at_most", "accuracy": "at_least"},
    "targeted": {"attack_success": "at_most", "accuracy": "at_least"},
    "backdoor": {"attack_success": "at_most", "accuracy": "at_least"},
    "membership": {"tpr_at_1pct_fpr": "at_most", "tpr_at_01pct_fpr": "at_most", "auc": "at_most"},
}


def read_plan(path: Path | str) -> Plan:
    """Read a plan in TOML; `attacks` may be method names, ensembles ("autoattack") or tables.

    Raises UsageError if the file is missing or something in it is not as it must be; says what.
    """
    try:
        raw = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"The plan {path} cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"The plan {path} is not valid TOML: {error}.") from None
    threats = raw.get("threats")
    for threat in threats if isinstance(threats, list) else []:
        if isinstance(threat, dict) and isinstance(threat.get("attacks"), list):
            threat["attacks"] = [ask for item in threat["attacks"] for ask in _asks(item)]
        if isinstance(threat, dict) and isinstance(threat.get("semantics"), str):
            threat["semantics"] = _beside(Path(path), threat["semantics"])
    try:
        plan = Plan.model_validate({"name": Path(path).stem, **raw})
    except ValidationError as error:
        first = error.errors()[0]
        wrong = "no such setting" if first["type"] == "extra_forbidden" else first["msg"].lower()
        raise UsageError(f"The plan {path}, at {_place(first['loc'], threats)}: {wrong}.") from None
    check(plan)
    return plan


def _place(loc: tuple[int | str, ...], threats: Any) -> str:
    """Name a place in a plan, a threat by its id where it has one."""
    match loc:
        case ("threats", int(i), *rest) if isinstance(threats[i], dict) and threats[i].get("id"):
            return f"'{'.'.join(map(str, rest))}' of '{threats[i]['id']}'"
    return f"'{'.'.join(map(str, loc))}'"


def _beside(plan: Path, name: str) -> Any:
    """Read a JSON file that a plan names, relative to the plan's folder."""
    try:
        return json.loads((plan.parent / name).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"The file {name} of the plan {plan} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise UsageError(f"The file {name} of the plan {plan} is not valid JSON: {error}.") from None


def _asks(item: Any) -> list[Any]:
    if isinstance(item, str):
        return list(ENSEMBLES.get(item, (Ask(method=item),)))
    return [item]


def check(plan: Plan) -> None:
    """Refuse a plan that names unknown methods, parameters or metrics, before anything runs."""
    for threat in plan.threats:
        for ask in threat.attacks:
            entry = find(ask.method)
            entry.validate(ask.params)
            if entry.family != threat.family:
                raise UsageError(
                    f"The threat '{threat.id}' is of family {threat.family}; {entry.id} is of {entry.family}."
                )
            if threat.family == "universal" and threat.area is None and not entry.norms:
                raise UsageError(f"{entry.id} covers a share of each picture: '{threat.id}' needs 'area'.")
            ball = threat.family == "evasion" or (threat.family == "universal" and threat.area is None)
            if ball and threat.norm not in entry.norms:
                raise UsageError(
                    f"{entry.id} knows the norms {', '.join(entry.norms)}. Got {threat.norm} in '{threat.id}'."
                )
        _check_requirement(threat)
        if threat.surrogates and threat.family != "evasion":
            raise UsageError(
                f"Only evasion can be crafted on surrogates. '{threat.id}' is of {threat.family}."
            )
        known(threat.surrogates)
        if threat.family in ("poisoning", "backdoor") and not threat.rates:
            raise UsageError(f"The threat '{threat.id}' needs 'rates', shares of the training rows.")
        for rate in threat.rates:
            if not 0 <= rate <= 1:
                hint = f"; did you mean {rate / 100:g}?" if 1 < rate <= 100 else "."
                raise UsageError(
                    f"The 'rates' of '{threat.id}' must be in [0, 1], shares of the training rows. Got {rate:g}{hint}"
                )
        if threat.family in ("poisoning", "backdoor") and threat.rows is not None:
            raise UsageError(
                f"The threat '{threat.id}' must not have 'rows', which poisoning and backdoors do not follow: they "
                "take every test row that can judge them, and 'rates' say how many training rows change. "
                f"Got rows = {threat.rows}."
            )
        if (threat.family == "targeted") != (threat.tampering is not None):
            raise UsageError(
                f"A targeted threat needs 'tampering', and no other has it. '{threat.id}' is of {threat.family}."
            )
        if (threat.family == "malware") != (threat.semantics is not None):
            raise UsageError(
                f"A malware threat needs 'semantics', and no other has them. '{threat.id}' is of {threat.family}."
            )
        spaces = ("generator", "conditional", "attributes", "colours")
        given = [name for name in spaces if getattr(threat, name) is not None]
        if len(given) != (threat.family == "semantic"):
            raise UsageError(
                f"A semantic threat needs one of {', '.join(spaces)}, and no other has any. '{threat.id}' is of "
                f"{threat.family} and has {' and '.join(given) or 'none'}."
            )
        if threat.family in ("evasion", "universal", "physical"):
            try:
                threat.budget((1, 28, 28))
            except UsageError as error:
                raise UsageError(f"In '{threat.id}': {error}") from None


def _check_requirement(threat: Threat) -> None:
    known = METRICS.get(threat.family)
    if known is None:
        raise UsageError(
            f"The family of a threat must be {', '.join(METRICS)}. Got '{threat.family}' in '{threat.id}'."
        )
    said = {side: getattr(threat.require, side) for side in ("at_least", "at_most")}
    given = [side for side, bound in said.items() if bound is not None]
    if given != [known.get(threat.require.metric)]:
        allowed = " or ".join(f"{metric} with {side}" for metric, side in known.items())
        got = f"{threat.require.metric} with {' and '.join(given) or 'neither'}"
        raise UsageError(f"The threat '{threat.id}' must require {allowed}. Got {got}.")
    bound = said[given[0]]
    if bound is None or not 0 <= bound <= 1:
        hint = f"; did you mean {bound / 100:g}?" if bound is not None and 1 < bound <= 100 else "."
        raise UsageError(f"The '{given[0]}' of '{threat.id}' must be in [0, 1], a share. Got {bound:g}{hint}")
