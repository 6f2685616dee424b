"""Scan the zoo, measure how well its backdoors are told apart, and write the constants of `casemate scan`.

    python scripts/scan_fit.py FOLDER scan       # numbers of each model beside it, once
    python scripts/scan_fit.py FOLDER fit        # cross-validation and calibration.json
    python scripts/scan_fit.py FOLDER judge      # what the shipped calibration says of models that it has not seen

FOLDER is what `scripts/scan_zoo.py` made.
"""

import argparse
import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scan_zoo import KINDS, SETS, load
from sklearn.linear_model import LogisticRegression

from casemate.assess.calibration import UNEVEN, beyond, shipped, unevenness
from casemate.assess.evidence import DETECTORS, INVERSION, collected, references
from casemate.core.data import Samples
from casemate.ops.rng import generator
from casemate.ops.roc import auc
from casemate.ops.stats import exact_share

ROWS = 500
NAMES = (*DETECTORS, "weights.signature", "weights.lipschitz")
WORKS = 0.8  # success below which a trigger is no backdoor worth the name
FOLDS = 10
STRENGTH = 1.0  # of the data against the penalty on large weights
WEAK, CLEAR = (
    2.0,
    5.0,
)  # deviations of the clean models' scores above their mean, from which on signs are weak, or clear
RIGHT = 0.5  # clean accuracy below which a scan gives no answer
BEGIN, END = "<!-- measured -->\n", "<!-- /measured -->"
PAGE = Path(__file__).parents[1] / "docs/scan.md"
OUT = Path(__file__).parents[1] / "src/casemate/assess/calibration.json"


def some(test: Samples, *path: str | int) -> Samples:
    """Draw the clean rows that a defender has."""
    return test[torch.randperm(len(test), generator=generator(0, "zoo rows", *path))[:ROWS]]


def scan(folder: Path, only: str) -> None:
    """Collect the numbers of every model and of the references of every data set."""
    sets = {name: make()[1] for name, make in SETS.items()}
    for name, test in sets.items():
        path = folder / f"reference-{name}.numbers"
        if not path.exists() and only in path.stem:
            clean = some(test, name)
            found = [collected(model, clean, seed=0) for model in references(clean, seed=0)]
            path.write_text(json.dumps([plain(each) for each in found]))
    for card in sorted(folder.glob("*.json"), key=turn):
        path = card.with_suffix(".numbers")
        if path.exists() or only not in card.stem or doubt(json.loads(card.read_text())):
            continue
        model, said = load(folder, card.stem)
        begun = time.perf_counter()
        found = collected(model, some(sets[said["data"]], said["data"]), seed=said["seed"])
        path.write_text(json.dumps(plain(found)))
        print(card.stem, f"{time.perf_counter() - begun:.1f} s", flush=True)


def doubt(card: dict[str, Any]) -> str:
    """Say why a model is left out of the zoo; empty if it is not."""
    if card["accuracy"] < RIGHT:
        return f"right on {card['accuracy']:.0%} only"
    success = card.get("success", 1.0)
    return f"its trigger steers {success:.0%} only" if success < WORKS else ""


def turn(card: Path) -> float:
    """Let clean and backdoored models of all data sets take turns, so that a part of the zoo is a fair one."""
    said = json.loads(card.read_text())
    i = said["seed"] % 100
    if said["kind"] == "clean":
        return i / 24  # rates of false alarms need clean ones first
    return (i + list(KINDS).index(said["kind"]) / len(KINDS)) / 3


def plain(found: Any) -> dict[str, Any]:
    """Write evidence as JSON has it."""
    return {
        "evidence": {name: values.tolist() for name, values in found.evidence.items()},
        "traces": {
            name: {
                "size": t.size.tolist(), "success": t.success.tolist(), "flagged": t.flagged.tolist(),
                "passes": t.passes,
            }
            for name, t in found.traces.items()
        },
        "left_out": found.left_out,
    }  # fmt: skip


@dataclass(frozen=True)
class Model:
    """A model of the zoo: features (K, F) of its classes, its target (None if it is clean), and whether it is answered."""

    name: str
    data: str
    kind: str
    target: int | None
    features: np.ndarray
    answered: bool

    @property
    def labels(self) -> np.ndarray:
        """Ones for the target."""
        found = np.zeros(len(self.features))
        if self.target is not None:
            found[self.target] = 1
        return found


def models(folder: Path, names: Sequence[str]) -> tuple[list[Model], list[str]]:
    """Read the numbers of all models; those whose trigger steers too little are left out, by name."""
    usual = {}
    for path in folder.glob("reference-*.numbers"):
        parts = [each["evidence"] for each in json.loads(path.read_text())]
        usual[path.stem.removeprefix("reference-")] = {
            name: torch.tensor([p[name] for p in parts if name in p]).mean(0) for name in parts[0]
        }
    found, left_out = [], []
    for path in sorted(folder.glob("*.json")):
        card, numbers = json.loads(path.read_text()), path.with_suffix(".numbers")
        if why := doubt(card):
            left_out.append(f"{path.stem}: {why}")
        if why or not numbers.exists():
            continue
        evidence = {k: torch.tensor(v) for k, v in json.loads(numbers.read_text())["evidence"].items()}
        k = len(next(iter(evidence.values())))
        none = torch.zeros(k)
        columns = [beyond(evidence.get(n, none), usual[card["data"]].get(n)).numpy() for n in names]
        target = None if card["kind"] == "clean" else card["target"]
        even = unevenness(evidence) <= UNEVEN
        found.append(Model(path.stem, card["data"], card["kind"], target, np.stack(columns, 1), even))
    return found, left_out


@dataclass(frozen=True)
class Fit:
    """Weights and bias of a score in deviations above the mean of clean models."""

    weights: np.ndarray
    bias: float

    def scores(self, model: Model) -> np.ndarray:
        """Score the classes."""
        return model.features @ self.weights + self.bias


def fitted(known: Sequence[Model], allowed: np.ndarray) -> Fit:
    """Fit classes, targets against all others, and count from where clean models are."""
    x = np.concatenate([m.features for m in known])[:, allowed]
    y = np.concatenate([m.labels for m in known])
    regression = LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=5000).fit(x, y)
    weights = np.zeros(known[0].features.shape[1])
    # evidence is for a backdoor or nothing
    weights[allowed] = regression.coef_[0].clip(min=0)
    fit = Fit(weights, float(regression.intercept_[0]))
    clean = np.array([fit.scores(m).max() for m in known if m.target is None])
    mean, deviation = float(clean.mean()), float(clean.std(ddof=1))
    return Fit(weights / deviation, (fit.bias - mean) / deviation)


def judged(
    zoo: Sequence[Model], allowed: np.ndarray, without: str = "", by: str = "fold"
) -> dict[str, float]:
    """Score each model by a fit to others; kind `without` is in no fit."""
    rng = np.random.default_rng(0)
    kinds = {m.kind: i for i, m in enumerate(zoo)}
    folds = {}
    for kind in kinds:
        own = [m.name for m in zoo if m.kind == kind]
        folds |= dict(zip(rng.permutation(own).tolist(), itertools.cycle(range(FOLDS))))
    group = {m.name: m.data if by == "data" else folds[m.name] for m in zoo}
    found = {}
    for fold in sorted(set(group.values()), key=str):
        fit = fitted([m for m in zoo if group[m.name] != fold and m.kind != without], allowed)
        found |= {m.name: float(fit.scores(m).max()) for m in zoo if group[m.name] == fold}
    return found


def rate(values: Sequence[bool]) -> dict[str, float]:
    """Count, with the exact interval."""
    return exact_share(sum(values), len(values)).__dict__


def report(zoo: Sequence[Model], allowed: np.ndarray) -> dict[str, Any]:
    """Cross-validate over models, over kinds of trigger and over data sets."""
    clean = [m.name for m in zoo if m.target is None]
    kinds = sorted({m.kind for m in zoo if m.target is not None})
    seen = judged(zoo, allowed)
    marked = [m for m in zoo if m.target is not None]
    unseen = {kind: judged(zoo, allowed, without=kind) for kind in kinds}
    other = judged(zoo, allowed, by="data")
    held = np.array([unseen[m.kind][m.name] for m in marked])
    usual = np.array([np.mean([unseen[k][name] for k in kinds]) for name in clean])
    positive, negative = np.array([seen[m.name] for m in marked]), np.array([seen[n] for n in clean])
    return {
        "auc": auc(positive, negative).__dict__,
        "auc_unseen": auc(held, usual).__dict__,
        "auc_unseen_by_kind": {
            k: auc(np.array([unseen[k][m.name] for m in marked if m.kind == k]),
                   np.array([unseen[k][n] for n in clean])).value for k in kinds
        },
        "auc_other_data": auc(np.array([other[m.name] for m in marked]), np.array([other[n] for n in clean])).__dict__,
        "false_alarms": rate([seen[n] > CLEAR for n in clean]),
        "weak": {
            "clean": rate([WEAK < seen[n] <= CLEAR for n in clean]),
            "backdoored": rate([WEAK < seen[m.name] <= CLEAR for m in marked]),
        },
        "false_alarms_unseen": rate([x > CLEAR for x in usual]),
        "false_alarms_other_data": rate([other[n] > CLEAR for n in clean]),
        "found": {k: rate([seen[m.name] > CLEAR for m in marked if m.kind == k]) for k in kinds}
        | {"all": rate([seen[m.name] > CLEAR for m in marked])},
        "unseen": {k: rate([unseen[k][m.name] > CLEAR for m in marked if m.kind == k]) for k in kinds}
        | {"all": rate([x > CLEAR for x in held])},
        "other_data": rate([other[m.name] > CLEAR for m in marked]),
        # both kinds are needed, and of shapes all clean ones may be without an answer
        "by_data": {
            d: _on(seen, [m for m in zoo if m.data == d]) for d in sorted({m.data for m in zoo if m.target is None})
        },
        "scores": {m.name: round(seen[m.name], 2) for m in zoo},
    }  # fmt: skip


def _on(seen: dict[str, float], zoo: Sequence[Model]) -> dict[str, Any]:
    """Say how the models of one data set were told apart."""
    marked, clean = ([seen[m.name] for m in zoo if (m.target is None) == c] for c in (False, True))
    return {
        "auc": auc(np.array(marked), np.array(clean)).__dict__,
        "false_alarms": rate([x > CLEAR for x in clean]),
        "found": rate([x > CLEAR for x in marked]),
    }


def flags(folder: Path, zoo: Sequence[Model]) -> list[str]:
    """Write, for each detector alone, how often its own flag is raised on clean models and on the right class."""
    lines = [
        "| the star of one detector | clean models with one | backdoored models with one on the right class |",
        "|---|---|---|",
    ]
    zoo = [m for m in zoo if m.answered]
    numbers = {m.name: json.loads((folder / f"{m.name}.numbers").read_text())["traces"] for m in zoo}
    for name in DETECTORS:
        asked = [m for m in zoo if name in numbers[m.name]]
        raised = {m.name: numbers[m.name][name]["flagged"] for m in asked}
        wrong = rate([any(raised[m.name]) for m in asked if m.target is None])
        right = rate([raised[m.name][m.target] for m in asked if m.target is not None])
        lines.append(f"| `{name}` | {_written(wrong, False)} | {_written(right, False)} |")
    return lines


def main() -> None:
    """Scan or fit."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("what", choices=("scan", "fit", "judge"))
    parser.add_argument("--only", default="")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    if args.what == "scan":
        scan(args.folder, args.only)
        return
    zoo, left_out = models(args.folder, NAMES)
    if args.what == "judge":
        judge(zoo)
        return
    said = calibration(zoo, left_out, set(INVERSION))
    args.out.write_text(json.dumps(said, indent=1) + "\n")
    others = {
        "with ABS": calibration(zoo, left_out, set(DETECTORS)),
        "with ABS and weights": calibration(zoo, left_out, set(NAMES)),
    }
    write_page({"trigger inversion (the score)": said, **others}, flags(args.folder, zoo))
    print(json.dumps({k: v for k, v in said.items() if k not in ("scores", "left_out")}, indent=1))


def judge(zoo: Sequence[Model]) -> None:
    """Print what the shipped calibration says of models, and how often it is right."""
    how = shipped()
    weights = np.array([how.weights.get(name, 0.0) for name in NAMES])
    scores = {m.name: m.features @ weights + how.bias for m in zoo}
    for m in zoo:
        score, suspect = scores[m.name].max(), scores[m.name].argmax()
        answer = "clear" if score > how.threshold else "weak" if score > how.weak_from else "none"
        right = "" if m.target is None else f", target {m.target}"
        print(f"{m.name}: {answer if m.answered else 'uneven'}, {score:.2f}, class {suspect}{right}")
    marked, clean = (
        np.array([scores[m.name].max() for m in zoo if m.answered and (m.target is None) == c])
        for c in (False, True)
    )
    print("AUC", _written(auc(marked, clean).__dict__, True))
    for title, found in (("clean", clean), ("backdoored", marked)):
        weak = (found > how.weak_from) & (found <= how.threshold)
        print(title, "called backdoored:", _written(rate((found > how.threshold).tolist()), False))
        print(title, "weak signs:", _written(rate(weak.tolist()), False))


def write_page(columns: dict[str, dict[str, Any]], more: Sequence[str]) -> None:
    """Put the measured numbers into docs/scan.md."""
    said = list(columns.values())
    lines = [f"Measured with {said[0]['made'].rpartition(',')[0]}.", "", f"| | {' | '.join(columns)} |"]
    lines.append("|---" * (1 + len(said)) + "|")
    for key, title in (
        ("auc", "AUC"), ("auc_unseen", "AUC, unseen kinds"), ("auc_other_data", "AUC, fitted to the other data sets"),
        ("false_alarms", "clean models called backdoored"),
        ("false_alarms_other_data", "the same, fitted to the other data sets"),
    ):  # fmt: skip
        lines.append(f"| {title} | {' | '.join(_written(each[key], 'auc' in key) for each in said)} |")
    for key, title in (("found", "found"), ("unseen", "found, unseen kind")):
        for kind in said[0][key]:
            cells = " | ".join(_written(each[key][kind], False) for each in said)
            lines.append(f"| {title}: {kind.replace('_', ' ')} | {cells} |")
    cells = " | ".join(_written(each["other_data"], False) for each in said)
    lines.append(f"| found, fitted to the other data sets: all | {cells} |")
    for data in said[0]["by_data"]:
        for key, title in (
            ("auc", "AUC"),
            ("false_alarms", "clean models called backdoored"),
            ("found", "found"),
        ):
            cells = " | ".join(_written(each["by_data"][data][key], key == "auc") for each in said)
            lines.append(f"| {data}: {title} | {cells} |")
    for kind in ("clean", "backdoored"):
        cells = " | ".join(_written(each["weak"][kind], False) for each in said)
        lines.append(f"| {kind} models with weak signs | {cells} |")
    for data, share in said[0]["unanswered"].items():
        lines.append(f"| {data}: no answer | {_written(share, False)} |" + " |" * (len(said) - 1))
    lines += ["", *more]
    head, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(head + BEGIN + "\n".join(lines) + "\n" + END + rest.partition(END)[2])


def _written(rate: dict[str, float], plain: bool) -> str:
    if plain:
        return f"{rate['value']:.3f} ({rate['low']:.3f} to {rate['high']:.3f})"
    hits = round(rate["value"] * rate["n"])
    return f"{hits} of {rate['n']}, {rate['value']:.0%} ({rate['low']:.0%} to {rate['high']:.0%})"


def calibration(every: Sequence[Model], left_out: Sequence[str], used: set[str]) -> dict[str, Any]:
    """Fit to all models that get an answer, beside what fits to parts of them showed on the rest."""
    zoo = [m for m in every if m.answered]
    allowed = np.array([name in used for name in NAMES])
    fit = fitted(zoo, allowed)
    clean = sum(m.target is None for m in zoo)
    return {
        "made": f"{clean} clean and {len(zoo) - clean} backdoored models that get an answer, "
        f"{date.today().isoformat()}, scripts/scan_fit.py",
        "weights": {n: round(float(fit.weights[i]), 4) for i, n in enumerate(NAMES) if n in used},
        "bias": round(fit.bias, 4),
        "threshold": CLEAR,
        "weak_from": WEAK,
        **report(zoo, allowed),
        "unanswered": {
            d: rate([not m.answered for m in every if m.data == d]) for d in sorted({m.data for m in every})
        },
        "left_out": list(left_out),
    }


if __name__ == "__main__":
    main()
