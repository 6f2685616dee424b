"""The plans that come along: quick, standard, thorough."""

from typing import Any

from casemate.assess.plan import AUTOATTACK, Ask, Plan, Threat
from casemate.assess.result import Requirement
from casemate.core.errors import UsageError
from casemate.core.tampering import Tampering

# few passes first: what a cheap attack breaks a dear one need not try
TRANSFER = (
    Ask(method="evasion.mi_fgsm"),
    Ask(method="evasion.di_fgsm"),
    Ask(method="evasion.vmi_fgsm", params={"neighbours": 5}),
)

LATER = (
    ("Does it leak: model inversion", "not in this version"),
    ("Does it leak: model extraction", "not in this version"),
)


def preset(name: str) -> Plan:
    """Look a preset up: quick (two to three minutes), standard, thorough."""
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
    labels = ("each its own", "one for all")  # the second costs several times as much
    flips = tuple(Ask(method="poisoning.label_flip", params={"labels": given}) for given in labels)
    return Threat(
        id="poisoning-labels", family="poisoning", attacks=flips, rates=rates,
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


def _hidden(rates: tuple[float, ...], **settings: Any) -> Threat:
    return Threat(
        id="backdoor-hidden", family="backdoor", rates=rates,
        attacks=(Ask(method="backdoor.wanet"), Ask(method="backdoor.adaptive_blend")),
        title="Triggers made not to be found by screening",
        question="Can a trigger that screenings are blind to steer the model later?",
        require=Requirement(metric="attack_success", at_most=0.1), **settings,
    )  # fmt: skip


def _touched_up(rates: tuple[float, ...], **settings: Any) -> Threat:
    return Threat(
        id="poisoning-touched-up", family="poisoning", rates=rates,
        attacks=(Ask(method="poisoning.error_maximising"),),
        title="Training pictures touched up a little, with right labels",
        question="Can training be spoiled by changes that nobody sees?",
        require=Requirement(metric="accuracy_drop", at_most=0.05), **settings,
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
            # one rate: harden tries each defence at every rate and at three times it
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
            _universal(rows=1000),
            _semantic(rows=200, queries=5000),
            _print(rows=200),
            _backdoor((0.001, 0.002, 0.005, 0.01, 0.03, 0.1), repeats=5),
            _blended((0.005, 0.01, 0.03, 0.1), repeats=5),
            _hidden((0.03, 0.1, 0.2), repeats=3),
            _clean_label((0.01, 0.02, 0.04), repeats=5),
            _targeted((Ask(method="targeted.influence"),), rows=100),
            _poison((0.05, 0.1, 0.2, 0.4), repeats=5),
            _touched_up((0.5, 0.8, 1.0), repeats=3),
            _membership(64, rows=2000),
        ),
        not_tested=LATER,
    )
