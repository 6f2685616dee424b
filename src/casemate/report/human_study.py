"""The page of a human study: one file that opens without a network."""

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from casemate.assess.stimuli import Stimulus
from casemate.core.errors import UsageError
from casemate.ops.rng import seed_of
from casemate.report.png import png

NAME = "human-study.html"


def write_page(
    stimuli: Sequence[Stimulus], out: Path, *, exposure: float, limit: float, seed: int, origin: str = ""
) -> Path:
    """Write the page into a folder.

    Args:
        stimuli: pictures of at least three classes.
        out: folder, made where it is missing.
        exposure: how long a picture is shown, in milliseconds; rounded to whole frames of the screen.
        limit: time for an answer, in milliseconds.
        seed: chooses the wrong answers offered in the condition `false`.
        origin: how the pictures were chosen, for whoever runs the study; participants do not see it.

    Returns:
        Path of the page.
    """
    path = out / NAME
    try:
        out.mkdir(parents=True, exist_ok=True)
        path.write_text(
            page(stimuli, exposure=exposure, limit=limit, seed=seed, origin=origin), encoding="utf-8"
        )
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}.") from None
    return path


def page(stimuli: Sequence[Stimulus], *, exposure: float, limit: float, seed: int, origin: str = "") -> str:
    """Fill the page; style, script and pictures are inside."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("casemate.report"), autoescape=True, undefined=StrictUndefined
    )
    assert environment.loader is not None
    script = environment.loader.get_source(environment, "human_study.js")[0]
    labels = sorted({s.label for s in stimuli} | {s.target for s in stimuli})
    study = {
        "exposure": exposure,
        "limit": limit,
        "origin": origin,
        "items": [_item(s, i, labels, seed) for i, s in enumerate(stimuli)],
    }
    # a closing tag inside a class's name must not end the block
    said = json.dumps(study).replace("<", "\\u003c")
    return environment.get_template("human_study.html.j2").render(
        study=said,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        style=environment.loader.get_source(environment, "human_study.css")[0],
        count=len(stimuli),
        origin=origin,
        exposure=exposure,
        limit=limit / 1000,
    )


def _item(s: Stimulus, number: int, labels: Sequence[str], seed: int) -> dict[str, str]:
    others = [name for name in labels if name not in (s.label, s.target)]
    pick = seed_of(seed, "other", number) % len(others)
    return {
        "image": _address(s.x), "adv": _address(s.x_adv), "flip": _address(s.flip),
        "label": s.label, "target": s.target, "other": others[pick],
    }  # fmt: skip


def _address(x: Tensor) -> str:
    levels = (x.clamp(0, 1) * 255).round().numpy().astype(np.uint8)
    pixels = levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0)
    return "data:image/png;base64," + base64.b64encode(png(pixels)).decode()
