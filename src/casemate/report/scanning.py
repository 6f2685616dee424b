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
from casemate.report import gallery
from casemate.report.html import data as address
from casemate.report.png import png
from casemate.report.scan_words import TITLES, action, answer, meaning, named, rates

EXAMPLES = 4  # clean pictures that a trigger is shown on

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
