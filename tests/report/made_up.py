"""A folder that holds every kind of result, made up: no number in it was measured."""

from pathlib import Path

import numpy as np
import torch
from pydantic import Field, create_model

from casemate.assess.case import Case
from casemate.assess.result import Assessment, Curve, Flag, Provenance, Result, Spent, Verdict
from casemate.assess.store import Store
from casemate.core.registry import Entry, Paper
from casemate.core.threat import Lp
from casemate.ops.stats import Estimate, exact_share, share

NAMES = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
WITH = Provenance(
    casemate="0.1.0", python="3.11.7", torch="2.13.0", numpy="2.4.6", device="cpu", platform="Linux", threads=2,
    git="4b6d38f", time="2026-01-02T03:04:05+00:00",
)  # fmt: skip
LINF, L2 = Lp(norm="linf", eps=0.1), Lp(norm="l2", eps=1.0)


def images(count: int, shape: tuple[int, ...] = (1, 14, 14)) -> torch.Tensor:
    """Draw smooth made-up pictures in [0, 1], (count, *shape)."""
    rng = np.random.default_rng(7)
    coarse = torch.from_numpy(rng.random((count, shape[0], 4, 4))).float()
    return torch.nn.functional.interpolate(coarse, shape[1:], mode="bilinear").clamp(0, 1)


def gallery(x: torch.Tensor, x_adv: torch.Tensor, y: list[int], given: list[int]) -> dict[str, torch.Tensor]:
    return {
        "gallery_x": x,
        "gallery_adv": x_adv,
        "gallery_y": torch.tensor(y),
        "gallery_pred": torch.tensor(given),
    }


def evasion(
    method: str, left: int, budget: Lp, params: dict[str, object], after: tuple[str, ...] = (), **more: object
) -> Result:
    n, right = 200, 172
    case = Case(
        method=method, version=1, params=params, target="aa11", data="bb22", budget=budget, rows=n, after=after
    )  # fmt: skip
    fields = {
        "headline": "robust_accuracy",
        "metrics": {
            "robust_accuracy": share(left, n),
            "success_rate": share(right - left, right),
            "robust_accuracy_8bit": share(left + 1, n),
        },
        "baseline": {"robust_accuracy": share(165, n), "success_rate": share(7, right)},
        "clean": {"accuracy": share(right, n)},
        "spent": Spent(
            queries_mean=40.0, queries_max=41, gradients_mean=40.0, gradients_max=40, seconds=3.21
        ),
        **more,
    }
    return Result.model_validate(
        {"key": case.key, "case": case, "status": "done", "provenance": WITH, **fields}
    )


def absent(
    method: str, status: str, reason: str, budget: Lp | None = None, rate: float | None = None
) -> Result:
    case = Case(method=method, version=1, data="bb22", budget=budget, rate=rate, rows=200)
    made = {"key": case.key, "case": case, "status": status, "reason": reason, "provenance": WITH}
    return Result.model_validate(made)


def accuracy_eps(scale: float) -> Curve:
    radii = np.linspace(0, 2, 21)
    points = [share(int(172 * np.exp(-scale * r)), 200) for r in radii]
    return Curve(
        x=radii.tolist(),
        y=[p.value for p in points],
        low=[p.low for p in points],
        high=[p.high for p in points],
        x_label="l2 radius, in units of x",
        y_label="accuracy under attack",
    )


def backdoor(rate: float, success: int) -> Result:
    case = Case(
        method="backdoor.badnets", version=1, params={"size": 3}, data="bb22", recipe="cc33", rate=rate, rows=1000,
        repeats=3,
    )  # fmt: skip
    fields = {
        "headline": "attack_success",
        "metrics": {"attack_success": share(success, 750), "accuracy": share(842, 1000)},
        "baseline": {"attack_success": share(9, 750)},
        "clean": {"accuracy": share(848, 1000), "attack_success": share(9, 750)},
        "spent": Spent(seconds=128.0),
        "notes": {"poisoned_rows": round(5000 * rate), "training_rows": 5000, "victims": 3, "target": 0},
    }
    return Result.model_validate(
        {"key": case.key, "case": case, "status": "done", "provenance": WITH, **fields}
    )


def poisoning() -> Result:
    case = Case(
        method="poisoning.label_flip", version=1, data="bb22", recipe="cc33", rate=0.2, rows=1000, repeats=2
    )
    fields = {
        "headline": "accuracy_drop",
        "metrics": {"accuracy_drop": Estimate(0.021, -0.01, 0.052, 2), "accuracy": share(827, 1000)},
        "baseline": {"accuracy_drop": Estimate(0.006, -0.02, 0.032, 2)},
        "clean": {"accuracy": share(848, 1000)},
        "flags": (
            Flag(code="few-victims", detail="2 victims; three or more tell how much trainings differ"),
        ),
        "spent": Spent(seconds=64.0),
    }
    return Result.model_validate(
        {"key": case.key, "case": case, "status": "done", "provenance": WITH, **fields}
    )


def membership(method: str, power: float, flags: tuple[Flag, ...] = ()) -> Result:
    case = Case(method=method, version=1, target="aa11", data="bb22", recipe="cc33", rows=1000)
    fpr = np.linspace(0, 1, 501)
    tpr = fpr**power
    found = exact_share(int(500 * 0.01**power), 500)
    fields = {
        "headline": "tpr_at_1pct_fpr",
        "metrics": {"tpr_at_1pct_fpr": found, "auc": Estimate(1 / (1 + power), 0.5, 0.62, 1000)},
        "baseline": {"tpr_at_1pct_fpr": exact_share(5, 500), "auc": Estimate(0.5, 0.46, 0.54, 1000)},
        "clean": {"accuracy": share(848, 1000), "tpr_at_1pct_fpr": exact_share(5, 500)},
        "curves": {
            "roc": Curve(
                x=fpr.tolist(), y=tpr.tolist(), low=(0.8 * tpr).tolist(), high=np.minimum(1, 1.2 * tpr).tolist(),
                x_label="false-alarm rate", y_label="training rows recognised", log=True,
            )
        },
        "flags": flags,
        "spent": Spent(queries_mean=1.0, queries_max=1, seconds=41.0),
    }  # fmt: skip
    return Result.model_validate(
        {"key": case.key, "case": case, "status": "done", "provenance": WITH, **fields}
    )


def fill(
    folder: Path, x: torch.Tensor | None = None, names: tuple[str, ...] = NAMES, hostile: str = ""
) -> Assessment:
    """Fill a folder; `hostile` is written wherever a result may carry text from outside."""
    store = Store(folder)
    x = images(12) if x is None else x
    noise = 0.1 * torch.from_numpy(np.random.default_rng(3).choice([-1.0, 1.0], tuple(x.shape))).float()
    bent = (x + noise).clamp(0, 1)
    y, given = [0, 6, 2, 9, 7, 3, 1, 4, 8, 5, 0, 6], [6, 4, 4, 7, 9, 3, 3, 2, 6, 7, 2, 0]
    fgsm = evasion("evasion.fgsm", 108, LINF, {"loss": "ce"})
    pgd = evasion(
        "evasion.pgd", 24, LINF, {"steps": 40, "loss": "margin"},
        after=(fgsm.key,),
        flags=(Flag(code="eight-bit-gap", detail="2.5% of the rows stand again"), Flag(code="made-up-code", detail=hostile)),
    )  # fmt: skip
    square = absent("evasion.square", "failed", f"RuntimeError: out of memory {hostile}".strip(), LINF)
    ddn = evasion("evasion.ddn", 104, L2, {"steps": 100}, curves={"accuracy_eps": accuracy_eps(0.8)})
    fmn = evasion("evasion.fmn", 110, L2, {"steps": 100}, curves={"accuracy_eps": accuracy_eps(0.7)})
    labels = absent("evasion.hop_skip_jump", "skipped", "needs more than 500 queries per row", L2)
    low, high = backdoor(0.002, 140), backdoor(0.01, 741)
    flips = poisoning()
    loss = membership("membership.loss", 0.95)
    lira = membership(
        "membership.lira", 0.9, (Flag(code="low-fpr-not-measurable", detail="500 non-members"),)
    )
    trigger = x[:6].clone()
    trigger[..., -4:-1, -4:-1] = 1.0
    pgd = store.put(pgd, gallery(x[:6], bent[:6], y[:6], given[:6]) | {"standing": torch.zeros(200).bool()})
    ddn = store.put(ddn, gallery(x[6:], x[6:] + 0.3 * (bent[6:] - x[6:]), y[6:], given[6:]))
    high = store.put(high, gallery(x[:6], trigger, y[:6], [0] * 6))
    flips = store.put(flips, gallery(x[:4], x[:4], y[:4], given[:4]))
    lira = store.put(lira, {"scores": torch.zeros(4), "members": torch.zeros(4).bool()})
    results = [fgsm, pgd, square, ddn, fmn, labels, low, high, flips, loss, lira]
    for result in results:
        store.put(result)
    assessment = Assessment(
        title="quick", target="builtin:fashion-cnn", target_digest="aa11" * 8, data="builtin:fashion-mini",
        data_digest="bb22" * 8, rows=200, classes=10, shape=tuple(x.shape[1:]), names=names, preset="quick", seed=3,
        command="casemate assess --preset quick --seed 3 --out out", started=WITH.time, seconds=412.0,
        clean_accuracy=share(848, 1000), verdicts=verdicts(results, hostile), keys=tuple(r.key for r in results),
        checks=(Flag(code="zero-gradient", detail="3 of 64 rows have no gradient"),), provenance=WITH,
    )  # fmt: skip
    store.finish(assessment)
    return assessment


def verdicts(results: list[Result], hostile: str) -> tuple[Verdict, ...]:
    fgsm, pgd, square, ddn, fmn, labels, low, high, flips, loss, lira = results
    rate = Curve(
        x=[0.002, 0.01], y=[140 / 750, 741 / 750], low=[0.16, 0.97], high=[0.22, 0.99],
        x_label="share of the training rows that are poisoned", y_label="attack success",
    )  # fmt: skip
    idle = rate.model_copy(update={"y": [0.01, 0.012], "low": [0.0, 0.0], "high": [0.02, 0.02]})
    return (
        Verdict(
            threat="evasion-linf", title=f"Small changes of every value {hostile}".strip(), family="evasion",
            question="Can an input be changed a little everywhere so that the model errs?", outcome="falls",
            why="required: robust accuracy at least 50%", requirement="robust accuracy at least 50%",
            metric="robust_accuracy", measured=share(24, 200), baseline=share(165, 200), clean=share(172, 200),
            budget="linf 0.1", access="gradients, scores", tried=(fgsm.key, pgd.key),
            not_tried=(("evasion.square", square.reason),), flags=pgd.flags,
        ),
        Verdict(
            threat="evasion-l2", title="The nearest input that is misread", family="evasion",
            question="How far must an input be moved until the model errs?", outcome="inconclusive",
            why="the interval contains the bound (robust accuracy at least 50%); more rows or repeats would tell",
            requirement="robust accuracy at least 50%", metric="robust_accuracy", measured=share(104, 200),
            baseline=share(165, 200), clean=share(172, 200), budget="l2 1", access="gradients",
            tried=(ddn.key, fmn.key),
        ),
        Verdict(
            threat="evasion-labels", title="An adversary who sees only decisions", family="evasion",
            outcome="not_tested", why=labels.reason, budget="l2 1, 500 queries", access="decisions",
            not_tried=(("evasion.hop_skip_jump", labels.reason),),
        ),
        Verdict(
            threat="backdoor-patch", title="A hidden trigger planted in the training data", family="backdoor",
            question="Can somebody who supplies a few training rows steer the model later?", outcome="falls",
            why="required: attack success at most 10%", requirement="attack success at most 10%",
            metric="attack_success", measured=share(741, 750), baseline=share(9, 750), clean=share(9, 750),
            budget="0.2%, 1% of the training rows", access="training data", tried=(low.key, high.key),
            curves={"badnets": rate, "badnets, random baseline": idle},
        ),
        Verdict(
            threat="poisoning-labels", title="Wrong labels in the training data", family="poisoning",
            question="How much accuracy do wrong labels cost?", outcome="inconclusive",
            why="the number would hold, but a check failed: few-victims", requirement="accuracy drop at most 5%",
            metric="accuracy_drop", measured=Estimate(0.021, -0.01, 0.052, 2), baseline=Estimate(0.006, -0.02, 0.032, 2),
            clean=share(848, 1000), budget="20% of the training rows", access="training data", tried=(flips.key,),
            flags=flips.flags,
        ),
        Verdict(
            threat="membership", title="Who was in the training data", family="membership",
            question="Can somebody tell whether a given record was used for training?", outcome="holds",
            why="required: tpr at 1pct fpr at most 5%", requirement="tpr at 1pct fpr at most 5%",
            metric="tpr_at_1pct_fpr", measured=exact_share(7, 500), baseline=exact_share(5, 500),
            clean=share(848, 1000), access="scores", tried=(loss.key, lira.key), flags=lira.flags,
        ),
        Verdict(
            threat="inversion", title="Does it leak: model inversion", family="", outcome="not_tested",
            why="not in this version",
        ),
    )  # fmt: skip


MADRY = Paper("A paper on <b>attacks</b>", "Madry", 2018, "https://arxiv.org/abs/1706.06083")
ODD = Paper("A paper whose address is no address", "Odd", 2020, "javascript:alert(1)")


def entry(method: str, access: type, papers: tuple[Paper, ...], **defaults: object) -> Entry:
    """Describe a method as the registry would, with parameters of these defaults."""
    family, name = method.split(".")
    fields = {k: (type(v), Field(default=v, description=f"What `{k}` does.")) for k, v in defaults.items()}
    params = create_model(f"{name}_params", **fields)  # type: ignore[call-overload]
    return Entry(
        family=family, name=name, run=print, access=access, params=params, papers=papers,
        summary=f"Do what {name} does.",
    )  # type: ignore[arg-type]  # fmt: skip


def harden(folder: Path) -> Path:
    """Put the assessment of a hardened target into a filled folder; returns the inner folder."""
    before = Store(folder).assessment()
    inner = Store(folder / "hardened")
    after = []
    for verdict in before.verdicts:
        if verdict.threat == "evasion-linf":
            after.append(
                verdict.model_copy(update={"outcome": "holds", "measured": share(118, 200), "tried": ()})
            )
        if verdict.threat == "backdoor-patch":
            after.append(verdict.model_copy(update={"measured": share(735, 750), "tried": (), "curves": {}}))
        if verdict.threat == "poisoning-labels":
            again = Verdict(
                threat="again", title=verdict.title, family="", outcome="not_tested", why="not attacked again"
            )
            after.append(again)
    price = {
        "defence": "training.trades", "training_seconds": 187.0, "epochs": 20, "weights": "model.safetensors",
        "candidates": {
            "training.trades": {"robust_accuracy": {"value": 0.58, "low": 0.523, "high": 0.635, "n": 300}}
        },
        "compared_on": "300 test rows that nothing else uses", "defences": {"backdoor-patch": ["repair.fine_pruning"]},
        "before": {"folder": "..", "clean_accuracy": {"value": 0.848, "low": 0.824, "high": 0.869, "n": 1000}},
        "made_up": 3,
    }  # fmt: skip
    inner.finish(
        before.model_copy(
            update={
                "kind": "harden", "verdicts": tuple(after), "keys": (), "price": price, "checks": (),
                "clean_accuracy": share(793, 1000), "command": "casemate harden out",
            }
        )
    )  # fmt: skip
    return folder / "hardened"
