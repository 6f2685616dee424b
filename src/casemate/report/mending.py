"""What came of mending a scanned model: before and after, the model, and the page of the second scan."""

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from casemate.assess.mend import Effect, Mended
from casemate.assess.store import write_whole
from casemate.core.target import Classifier
from casemate.ops.stats import Estimate
from casemate.report import scan_words, scanning
from casemate.report.words import interval, number

HEADINGS = ("Repair", "Recovered triggers steer", "Clean accuracy")


def written(mended: Mended, out: Path) -> list[Path]:
    """Write the second scan's page, before and after, and the model; raises UsageError if that fails."""
    paths = scanning.written(mended.again, out, before=table(mended))
    repair, weights, program = out / "repair.json", out / "model.safetensors", out / "model.pt2"
    state = {k: v.detach().contiguous().cpu().clone() for k, v in mended.model.net.state_dict().items()}
    write_whole(weights, save(state))
    exported = _exported(mended.model, program)
    said = as_json(mended) | {"model_file": program.name if exported else None}
    write_whole(repair, json.dumps(said, indent=1).encode())
    return [*paths, repair, weights, *([program] if exported else [])]


def _exported(model: Classifier, path: Path) -> bool:
    """Save the net as a program that takes any batch; a net that cannot be exported has its weights only."""
    x = torch.zeros(2, *model.shape, device=model.device)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            batch = torch.export.Dim("batch")
            program = torch.export.export(model.net.eval(), (x,), dynamic_shapes=({0: batch},))
            torch.export.save(program, path)
    except Exception:  # of any kind, by what the net does; the caller says that there is no program
        path.unlink(missing_ok=True)
        return False
    return True


def as_json(mended: Mended) -> dict[str, Any]:
    """Say before and after in numbers."""
    return {
        "chosen": mended.chosen,
        "suspect": mended.suspect,
        "effects": {name: _numbers(effect) for name, effect in mended.effects.items()},
        "left_out": mended.left_out,
        "scanned_again": mended.again.outcome,
        "score": mended.again.score,
    }


def _numbers(effect: Effect) -> dict[str, Any]:
    return {"clean_accuracy": effect.accuracy.__dict__, "recovered_trigger_success": effect.success.__dict__}


def rows(mended: Mended) -> list[list[str]]:
    """Say of each repair what it left of the triggers, and what it cost; * marks the chosen one."""
    return [
        [name + (" *" if name == mended.chosen else ""), _share(effect.success), _share(effect.accuracy)]
        for name, effect in mended.effects.items()
    ]


def table(mended: Mended) -> tuple[tuple[str, ...], list[list[str]], list[str]]:
    """Give headings, rows and sentences for the page."""
    return HEADINGS, rows(mended), sentences(mended)


def sentences(mended: Mended) -> list[str]:
    """Say what was chosen, what the second scan says, and what that does not show."""
    found = [f"Chosen: {mended.chosen}. {scan_words.answer(mended.again)}"]
    found += [f"Not tried: {name}: {why}" for name, why in mended.left_out.items()]
    return [
        *found,
        "Measured with the triggers that the scan recovered, on clean pictures that no repair saw but by which the repair "
        "was chosen; the trigger that was planted may be another one and may survive. The rates of error of a scan were "
        "not measured on mended models, so that its second answer is no proof.",
    ]


def _share(estimate: Estimate) -> str:
    return f"{number(estimate.value)} ({interval(estimate)})"
