"""What is asked: threats, the attacks that try each, and what must hold."""

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
from casemate.core.data import PoisonBudget
from casemate.core.errors import UsageError
from casemate.core.pasting import Pasting
from casemate.core.physical import Print, Sticker
from casemate.core.programs import Semantics
from casemate.core.registry import find
from casemate.core.semantic import Latent
from casemate.core.tampering import Tampering
from casemate.core.threat import Lp, parse_eps
from casemate.ops.norms import Norm

Layers = Annotated[tuple[str, ...], BeforeValidator(lambda said: (said,) if isinstance(said, str) else said)]
Preset = Literal["quick", "standard", "thorough"]


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
    `rates` are shares of the training rows. A malware threat names its `semantics`, what may be changed,
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
            case "semantic":
                return (
                    None
                    if self.generator is None
                    else Latent(generator=self.generator, radius=6.0, queries=self.queries)
                )
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

# few passes first: what a cheap attack breaks a dear one need not try
TRANSFER = (
    Ask(method="evasion.mi_fgsm"),
    Ask(method="evasion.di_fgsm"),
    Ask(method="evasion.vmi_fgsm", params={"neighbours": 5}),
)

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

LATER = (
    ("Does it leak: model inversion", "not in this version"),
    ("Does it leak: model extraction", "not in this version"),
)


def preset(name: str) -> Plan:
    """Look a preset up: quick (about two minutes), standard, thorough."""
    match name:
        case "quick":
            return _quick()
        case "standard":
            return _standard()
        case "thorough":
            return _thorough()
    raise UsageError(f"The preset must be quick, standard or thorough. Got '{name}'.")


def _linf(attacks: tuple[Ask, ...], **settings: Any) -> Threat:
    return Threat(
        id="evasion-linf", family="evasion", norm="linf", attacks=attacks, chain=True,
        title="Small changes of every value",
        question="Can an input be changed a little everywhere so that the model errs?",
        require=Requirement(metric="robust_accuracy", at_least=0.5), **settings,
    )  # fmt: skip


def _l2(attacks: tuple[Ask, ...], **settings: Any) -> Threat:
    return Threat(
        id="evasion-l2", family="evasion", norm="l2", attacks=attacks,
        title="The nearest input that is misread",
        question="How far must an input be moved until the model errs?",
        require=Requirement(metric="robust_accuracy", at_least=0.5), **settings,
    )  # fmt: skip


def _transfer(attacks: tuple[Ask, ...], **settings: Any) -> Threat:
    return Threat(
        id="evasion-transfer", family="evasion", norm="linf", attacks=attacks, chain=True,
        surrogates=("resnet", "strided", "vgg"),
        title="An adversary who trains models of their own",
        question="Can the model be fooled by somebody who never asks it anything?",
        require=Requirement(metric="robust_accuracy", at_least=0.5), **settings,
    )  # fmt: skip


def _labels_only(attacks: tuple[Ask, ...], **settings: Any) -> Threat:
    return Threat(
        id="evasion-labels", family="evasion", norm="l2", attacks=attacks,
        title="An adversary who sees only decisions",
        question="Can the model be fooled by somebody who only asks it?",
        require=Requirement(metric="robust_accuracy", at_least=0.5), **settings,
    )  # fmt: skip


def _semantic(**settings: Any) -> Threat:
    natural = Ask(method="semantic.natural", params={"samples": 100, "step": 0.1})
    return Threat(
        id="semantic-natural", family="semantic", attacks=(natural,), generator="generator_fashion_vae",
        title="Natural inputs that are misread",
        question="Is there an input near this one, as natural and with the same meaning, that the model misreads?",
        require=Requirement(metric="robust_accuracy", at_least=0.5), **settings,
    )  # fmt: skip


def _universal(**settings: Any) -> Threat:
    return Threat(
        id="universal-linf", family="universal", norm="linf",
        attacks=(Ask(method="universal.uap"), Ask(method="universal.gap")),
        title="One small change for all inputs",
        question="Is there one change, or one network that makes it, that misleads on inputs never seen?",
        require=Requirement(metric="robust_accuracy", at_least=0.5), **settings,
    )  # fmt: skip


def _print(**settings: Any) -> Threat:
    eot = Ask(method="physical.eot", params={"draws": 10})
    return Threat(
        id="physical-print", family="physical", norm="linf", attacks=(Ask(method="physical.printed"), eot),
        title="Pictures that are printed and photographed",
        question="Can a picture be changed so that the model errs on photographs of its print?",
        require=Requirement(metric="robust_accuracy", at_least=0.5), **settings,
    )  # fmt: skip


def _poison(rates: tuple[float, ...], **settings: Any) -> Threat:
    return Threat(
        id="poisoning-labels", family="poisoning", attacks=(Ask(method="poisoning.label_flip"),), rates=rates,
        title="Wrong labels in the training data",
        question="How much accuracy do wrong labels cost?",
        require=Requirement(metric="accuracy_drop", at_most=0.05), **settings,
    )  # fmt: skip


def _targeted(attacks: tuple[Ask, ...], **settings: Any) -> Threat:
    return Threat(
        id="targeted-clean-label", family="targeted", attacks=attacks,
        tampering=Tampering(poisons=10, eps=16 / 255, per_class=100),
        title="One input in mind, and a few training pictures touched up for it",
        question="Can somebody make the model err on one input by changing rows whose labels stay right?",
        require=Requirement(metric="attack_success", at_most=0.1), **settings,
    )  # fmt: skip


def _backdoor(rates: tuple[float, ...], **settings: Any) -> Threat:
    return Threat(
        id="backdoor-patch", family="backdoor", attacks=(Ask(method="backdoor.badnets"),), rates=rates,
        title="A hidden trigger planted in the training data",
        question="Can somebody who supplies a few training rows steer the model later?",
        require=Requirement(metric="attack_success", at_most=0.1), **settings,
    )  # fmt: skip


def _blended(rates: tuple[float, ...], **settings: Any) -> Threat:
    return Threat(
        id="backdoor-blended", family="backdoor", attacks=(Ask(method="backdoor.blended"),), rates=rates,
        title="A faint picture hidden all over a few training images",
        question="Can a trigger that hardly shows steer the model later?",
        require=Requirement(metric="attack_success", at_most=0.1), **settings,
    )  # fmt: skip


def _clean_label(rates: tuple[float, ...], **settings: Any) -> Threat:
    return Threat(
        id="backdoor-clean-label", family="backdoor", attacks=(Ask(method="backdoor.clean_label"),), rates=rates,
        title="A hidden trigger on training rows whose labels are right",
        question="Can somebody who cannot change a label steer the model later?",
        require=Requirement(metric="attack_success", at_most=0.1), **settings,
    )  # fmt: skip


def _membership(shadows: int, **settings: Any) -> Threat:
    return Threat(
        id="membership", family="membership",
        attacks=(Ask(method="membership.loss"), Ask(method="membership.lira", params={"shadows": shadows})),
        title="Who was in the training data",
        question="Can somebody tell whether a given record was used for training?",
        require=Requirement(metric="tpr_at_1pct_fpr", at_most=0.05), **settings,
    )  # fmt: skip


def _quick() -> Plan:
    linf = (
        Ask(method="evasion.fgsm"),
        Ask(method="evasion.pgd", params={"steps": 40, "loss": "margin"}),
        Ask(method="evasion.apgd", params={"loss": "ce", "steps": 50}),
        Ask(method="evasion.square", params={"queries": 500}),
    )
    return Plan(
        name="quick",
        rows=500,
        threats=(
            _linf(linf),
            _l2((Ask(method="evasion.ddn", params={"steps": 100}),)),
            _backdoor((0.01,), repeats=3),
            _poison((0.2,), repeats=3),
            _membership(8, rows=1000),
        ),
        not_tested=(
            ("Can it be fooled: labels only", "in the presets standard and thorough"),
            ("Can it be poisoned: clean-label attacks", "in the presets standard and thorough"),
            *LATER,
        ),
    )


def _standard() -> Plan:
    linf = (Ask(method="evasion.mi_fgsm"), Ask(method="evasion.pgd", params={"loss": "margin"}), *AUTOATTACK)
    l2 = (Ask(method="evasion.ddn"), Ask(method="evasion.fmn"), Ask(method="evasion.deepfool"))
    return Plan(
        name="standard",
        rows=1000,
        threats=(
            _linf(linf, rows=500),
            _l2((*l2, Ask(method="evasion.carlini_wagner")), rows=500),
            _transfer(TRANSFER, rows=500),
            _labels_only((Ask(method="evasion.hop_skip_jump"),), rows=100, queries=2500),
            _universal(rows=500),
            _semantic(rows=100, queries=2000),
            _print(rows=100),
            _backdoor((0.002, 0.005, 0.01, 0.03), repeats=3),
            _blended((0.005, 0.01, 0.03), repeats=3),
            _clean_label((0.01, 0.02, 0.04), repeats=3),
            _targeted((Ask(method="targeted.influence"),), rows=30),
            _poison((0.1, 0.2, 0.4), repeats=3),
            _membership(16, rows=2000),
        ),
        not_tested=LATER,
    )


def _thorough() -> Plan:
    linf = (
        Ask(method="evasion.mi_fgsm"),
        Ask(method="evasion.pgd", params={"steps": 100, "restarts": 5}),
        Ask(method="evasion.pgd", params={"steps": 100, "loss": "margin", "restarts": 5}),
        *AUTOATTACK,
    )
    l2 = (Ask(method="evasion.ddn", params={"steps": 500}), Ask(method="evasion.fmn", params={"steps": 500}))
    return Plan(
        name="thorough",
        rows=2000,
        threats=(
            _linf(linf, rows=1000),
            _l2((*l2, Ask(method="evasion.deepfool"), Ask(method="evasion.carlini_wagner")), rows=1000),
            _transfer(
                (
                    *TRANSFER,
                    Ask(method="evasion.pgn"),
                    Ask(method="evasion.ti_fgsm", params={"views": "di,si"}),
                )
            ),
            _labels_only((Ask(method="evasion.hop_skip_jump"),), rows=200, queries=10000),
            _backdoor((0.001, 0.002, 0.005, 0.01, 0.03, 0.1), repeats=5),
            _targeted((Ask(method="targeted.influence"),), rows=100),
            _poison((0.05, 0.1, 0.2, 0.4), repeats=5),
            _membership(64, rows=2000),
        ),
        not_tested=LATER,
    )


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
        where = ".".join(map(str, first["loc"]))
        wrong = "no such setting" if first["type"] == "extra_forbidden" else first["msg"].lower()
        raise UsageError(f"The plan {path}, at '{where}': {wrong}.") from None
    check(plan)
    return plan


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
            PoisonBudget(rate)
        if (threat.family == "targeted") != (threat.tampering is not None):
            raise UsageError(
                f"A targeted threat needs 'tampering', and no other has it. '{threat.id}' is of {threat.family}."
            )
        if (threat.family == "malware") != (threat.semantics is not None):
            raise UsageError(
                f"A malware threat needs 'semantics', and no other has them. '{threat.id}' is of {threat.family}."
            )
        if threat.family in ("evasion", "universal", "physical"):
            threat.budget((1, 28, 28))


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
