"""The page of a scanned model: one file that opens without a network."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from casemate.assess.scan import Scanned
from casemate.assess.store import write_whole
from casemate.core.scanning import Traces
from casemate.core.stamps import Warped
from casemate.core.triggers import Added, Mixed
from casemate.ops.stats import Estimate
from casemate.report import gallery
from casemate.report.html import data as address
from casemate.report.png import png
from casemate.report.words import interval, number

TITLES = {
    "scanning.neural_cleanse": "smallest patch",
    "scanning.least_perturbation": "least change",
    "scanning.warp_inversion": "least warp",
    "scanning.artificial_brain_stimulation": "neurons",
    "weights.signature": "weights of the class",
    "weights.lipschitz": "weights of channels",
}
EXAMPLES = 4  # clean pictures that a trigger is shown on
MOST = 0.5  # share of the clean pictures from which on a trigger is said to steer them

Table = tuple[Sequence[str], list[list[str]], list[str]]


def written(found: Scanned, out: Path, *, before: Table | None = None) -> list[Path]:
    """Write scan.html, scan.json and the suspect's triggers into a folder; raises UsageError if that fails.

    `before` are headings, rows and sentences on the repair that the scanned model comes from.
    """
    page, numbers, triggers = out / "scan.html", out / "scan.json", out / "scan.safetensors"
    write_whole(triggers, save(tensors(found)))
    write_whole(numbers, json.dumps(as_json(found), indent=1).encode())
    write_whole(page, html(found, before).encode())
    return [page, numbers, triggers]


def steering(found: Scanned) -> list[str]:
    """Name the detectors whose trigger for the suspect steers most clean pictures of other classes."""
    return [
        TITLES[name]
        for name, traces in found.found.traces.items()
        if float(traces.success[found.suspect]) > MOST
    ]


def answer(found: Scanned) -> str:
    """Say the outcome in a sentence."""
    suspect = named(found, found.suspect)
    score = f"score {found.score:.2f}, threshold {found.calibration.threshold:.2f}"
    match found.outcome:
        case "backdoored" if steering(found):
            return f"{found.name} is backdoored, it seems: a trigger calls up {suspect} ({score})."
        case "backdoored":
            return f"{found.name} is backdoored, it seems: {suspect} stands out as the class of a trigger does ({score})."
        case "no sign":
            return f"{found.name} shows no sign of a backdoor; most suspicious is {suspect} ({score})."
        case "inconclusive":
            return f"Inconclusive: {found.why}. Most suspicious is {suspect} ({score})."


def meaning(found: Scanned, *, repaired: bool) -> str:
    """Say what the outcome means; of models as they came with the rate at which such an answer is wrong."""
    if repaired:
        return _meaning_of_repaired(found)
    how = found.calibration
    alarms = _share(how.false_alarms_other_data)
    match found.outcome:
        case "backdoored":
            return f"{_steered(found)} Of clean models on data that were not fitted to, {alarms} are called so too."
        case "no sign":
            return (
                "No class can be called up far more easily than the others. That is no proof: of backdoored models on "
                f"data that were not fitted to, {_share(how.other_data)} are found, and of kinds of trigger that were not "
                "tried nothing is known."
            )
        case "inconclusive":
            return "The model is neither cleared nor accused: these pictures do not settle it."


def _meaning_of_repaired(found: Scanned) -> str:
    match found.outcome:
        case "backdoored":
            return f"The repair did not end it. {_steered(found)}"
        case "no sign":
            return (
                "After the repair no class can be called up far more easily than the others. That is no proof: how often "
                "this is wrong was not measured on mended models, and the trigger that was planted may be another one "
                "than those that were recovered."
            )
        case "inconclusive":
            return "The repaired model is neither cleared nor accused: these pictures do not settle it."


def _steered(found: Scanned) -> str:
    """Say what the recovered triggers do, of those that do much."""
    suspect, names = named(found, found.suspect), steering(found)
    if not names:
        return (
            f"{suspect[0].upper()}{suspect[1:]} stands out as the class of a trigger does, but no trigger that was "
            "recovered steers most pictures to it: what calls it up is not known."
        )
    return (
        f"Pictures that carry a trigger, such as that of {' or '.join(names)} below, are likely to be given {suspect} "
        "whatever they show."
    )


def action(found: Scanned, *, repaired: bool) -> str:
    """Say what to do next."""
    if repaired:
        return _action_on_repaired(found)
    match found.outcome:
        case "backdoored":
            look = "Look at what steers below, then run" if steering(found) else "Run"
            return (
                f"Do not use the model as it is. {look} casemate harden on this folder, which tries repairs and scans "
                "again, or train anew on rows that casemate screen has looked at."
            )
        case "no sign":
            return (
                "Use it as far as you trust where it comes from. Whoever has the training rows should run casemate screen "
                "on them as well."
            )
        case "inconclusive":
            return (
                "See to the reason above (more clean pictures, the right normalisation and labels) and scan again. Where "
                "that cannot help, judge the triggers below by eye, and trust the model no more than its source."
            )


def _action_on_repaired(found: Scanned) -> str:
    match found.outcome:
        case "backdoored":
            return "Do not use the repaired model: something is left. Train anew on data that you trust."
        case "no sign":
            return (
                "See below what the repair left of the triggers and what it cost in accuracy. Where much depends on the "
                "model, train anew on data that you trust; else trust the repaired model no more than its source."
            )
        case "inconclusive":
            return (
                "See below what the repair left of the triggers and what it cost in accuracy. Scan the model as it came "
                "and repair it again with more clean pictures, or train anew on data that you trust."
            )


def rates(found: Scanned) -> str:
    """Say how often such an answer is wrong, as measured."""
    how = found.calibration
    kinds = ", ".join(f"{kind.replace('_', ' ')} {_share(rate)}" for kind, rate in how.found.items())
    return (
        f"Measured on small models trained by us. On data sets that it was not fitted to, "
        f"{_share(how.false_alarms_other_data)} of the clean models are called backdoored "
        f"(n = {how.false_alarms_other_data.n}) and {_share(how.other_data)} of the backdoored ones are found "
        f"(n = {how.other_data.n}); on those it was fitted to (digits, clothes, a few coloured shapes), "
        f"{_share(how.false_alarms)} and, by kind of trigger: {kinds}. "
        f"With no trigger of a kind among the fitted ones, {_share(how.unseen['all'])} of them are found."
    )


def _share(rate: Any) -> str:
    estimate = Estimate(rate.value, rate.low, rate.high, rate.n)
    return f"{number(rate.value, 'share')} ({interval(estimate, 'share')})"


def headings(found: Scanned) -> list[str]:
    """Name the columns of `table`."""
    columns = ["Class", "Score"]
    for name in found.found.traces:
        columns.append(f"{TITLES[name]} [{found.found.traces[name].unit}], steers, evidence")
    return columns


def table(found: Scanned) -> list[list[str]]:
    """Say what each detector says of each class, the most suspicious first; * where it flags by itself."""
    rows = []
    for c in found.scores.argsort(descending=True, stable=True).tolist():
        cells = [_cell(t, c) for t in found.found.traces.values()]
        rows.append([named(found, c), f"{float(found.scores[c]):.2f}", *cells])
    return rows


def _cell(traces: Traces, c: int) -> str:
    flag = "*" if bool(traces.flagged[c]) else ""
    return (
        f"{float(traces.size[c]):.2f}, {float(traces.success[c]):.0%}, {float(traces.evidence[c]):+.2f}{flag}"
    )


def named(found: Scanned, c: int) -> str:
    """Name a class."""
    names = found.clean.names
    return f"class {c} ({names[c]})" if c < len(names) else f"class {c}"


def as_json(found: Scanned) -> dict[str, Any]:
    """Say everything in numbers."""
    return {
        "model": found.name,
        "data": found.data,
        "outcome": found.outcome,
        "why": found.why,
        "suspect": found.suspect,
        "score": found.score,
        "threshold": found.calibration.threshold,
        "rows": len(found.clean),
        "classes": found.model.classes,
        "clean_accuracy": found.accuracy.__dict__,
        "scores": [float(s) for s in found.scores],
        "shares_of_suspect": found.shares,
        "detectors": {name: _numbers(found, name, traces) for name, traces in found.found.traces.items()},
        "weights": {
            name: [float(v) for v in values]
            for name, values in found.found.evidence.items()
            if name not in found.found.traces
        },
        "weights_in_references": {
            name: [float(v) for v in values]
            for name, values in found.usual.items()
            if name not in found.found.traces
        },
        "left_out": found.found.left_out,
        "measured": found.calibration.model_dump(
            include={
                "made",
                "false_alarms",
                "found",
                "unseen",
                "auc",
                "auc_unseen",
                "false_alarms_other_data",
                "other_data",
                "unanswered",
                "weak",
            }
        ),
        "options": found.options,
        "digests": found.digests,
    }


def _numbers(found: Scanned, name: str, traces: Traces) -> dict[str, Any]:
    return {
        "unit": traces.unit,
        "size": [float(v) for v in traces.size],
        "success": [float(v) for v in traces.success],
        "evidence": [float(v) for v in traces.evidence],
        "evidence_in_references": [float(v) for v in found.usual.get(name, torch.zeros(0))],
        "flagged": [bool(v) for v in traces.flagged],
        "passes": traces.passes,
    }


def tensors(found: Scanned) -> dict[str, Tensor]:
    """Write down the suspect's triggers by detector."""
    parts: dict[str, Tensor] = {}
    for name, traces in found.found.traces.items():
        match traces.triggers[found.suspect]:
            case Mixed(pattern, share):
                parts[f"{name}/pattern"] = pattern.contiguous().cpu()
                parts[f"{name}/mask"] = torch.as_tensor(share).contiguous().cpu()
            case Added(delta, _):
                parts[f"{name}/delta"] = delta.contiguous().cpu()
            case Warped(shifts):
                parts[f"{name}/shifts"] = shifts.contiguous().cpu()
    return parts


def html(found: Scanned, before: Table | None = None) -> str:
    """Fill the page; style and pictures are inside, and every text is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("casemate.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    assert environment.loader is not None
    repaired = before is not None
    return environment.get_template("scan.html.j2").render(
        found=found,
        before=before,
        answer=answer(found),
        meaning=meaning(found, repaired=repaired),
        action=action(found, repaired=repaired),
        rates=rates(found),
        suspect=named(found, found.suspect),
        headings=headings(found),
        rows=table(found),
        shares=[
            *((TITLES.get(name, name), share) for name, share in found.shares.items()),
            ("Where every class starts", found.calibration.bias),
        ],
        strips=[_strip(found, name) for name in found.found.traces],
        titles=TITLES,
        style=environment.loader.get_source(environment, "report.css")[0],
    )


def _strip(found: Scanned, name: str) -> tuple[str, str, list[tuple[str, str]]]:
    """Draw the suspect's trigger on a plain picture and on clean ones of other classes."""
    traces = found.found.traces[name]
    trigger = traces.triggers[found.suspect]
    own = found.clean.y == found.suspect
    clean = found.clean.x[~own][:EXAMPLES]
    ground = (
        _ground(found.clean.shape)
        if isinstance(trigger, Warped)
        else torch.full((1, *found.clean.shape), 0.5)
    )
    shown = [("The trigger on a plain picture", _marked(trigger, ground))]
    for i in range(len(clean)):
        shown += [("Clean", clean[i : i + 1]), ("Stamped", _marked(trigger, clean[i : i + 1]))]
    said = f"steers {float(traces.success[found.suspect]):.0%} of the clean pictures of other classes"
    return TITLES[name], said, [(title, _picture(x)) for title, x in shown]


def _marked(trigger: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with torch.no_grad():
        return trigger(x).clamp(0, 1)


def _ground(shape: tuple[int, ...]) -> Tensor:
    """Draw a chessboard, on which a warp can be seen."""
    down, across = (torch.arange(side) // max(2, side // 7) for side in shape[1:])
    board = ((down[:, None] + across) % 2).float() * 0.6 + 0.2
    return board.expand(1, *shape).clone()


def _picture(x: Tensor) -> str:
    pixels: np.ndarray = x.cpu().numpy().astype(np.float64)
    return address(png(gallery.to_pixels(pixels, gallery.block_of(pixels.shape))[0]))
