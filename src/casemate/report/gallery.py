"""Pictures of what an attack changed: clean, changed, and the difference made visible."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from casemate.assess.case import Case
from casemate.assess.result import Result
from casemate.assess.store import Store
from casemate.core.physical import Print
from casemate.core.threat import Lp, format_eps
from casemate.ops import norms
from casemate.report import words
from casemate.report.model import Gallery, Picture
from casemate.report.png import png

MOST = 8  # examples per case
SIDE = 96  # longest side of a picture in pixels; larger inputs are averaged down
CASE_BYTES, REPORT_BYTES = 120_000, 600_000
NICE = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
KINDS = ("gallery", "planted")  # what was attacked, and the training rows that a backdoor needs changed
FIELDS = tuple(f"{kind}_{part}" for kind in KINDS for part in ("x", "adv", "y", "pred"))
LABELS = {
    "evasion": ("clean", "adversarial"),
    "universal": ("clean", "with the universal change"),
    "physical": ("clean", "to be printed"),
    "semantic": ("original", "made"),
    "malware": ("original", "changed"),
    "poisoning": ("original", "poisoned"),
    "targeted": ("original", "poisoned"),
    "backdoor": ("original", "with trigger"),
}


def galleries(
    store: Store, results: Sequence[Result], first: Sequence[str], names: Sequence[str]
) -> tuple[dict[str, tuple[Gallery, ...]], dict[str, str]]:
    """Draw the examples of all results until the report is large enough.

    Args:
        store: where the evidence is.
        results: the answers.
        first: keys of those whose examples matter most; they are drawn first.
        names: names of the classes, may be empty.

    Returns:
        Galleries by key, and by key the reasons why there is none where one was to be expected.
    """
    found: dict[str, tuple[Gallery, ...]] = {}
    missing: dict[str, str] = {}
    size = 0
    for result in sorted(results, key=lambda r: r.key not in first):
        if not result.evidence or result.status != "done":
            continue
        arrays, reason = read(store, result)
        if reason:
            missing[result.key] = reason
        if not arrays or not len(arrays["gallery_x"]):
            continue
        if size > REPORT_BYTES:
            missing[result.key] = (
                "Pictures are left out to keep the report small; they are in the evidence file."
            )
            continue
        drawn = [draw(result, arrays, names, kind) for kind in KINDS if len(arrays.get(f"{kind}_x", ()))]
        kept = tuple(made for made in drawn if not isinstance(made, str))
        if kept:
            found[result.key] = kept
        else:
            missing[result.key] = next(made for made in drawn if isinstance(made, str))
        size += sum(
            len(p.clean_png) + len(p.changed_png) + len(p.difference_png) for g in kept for p in g.pictures
        )
    return found, missing


def read(store: Store, result: Result) -> tuple[dict[str, np.ndarray], str]:
    """Read only the examples from a result's evidence: arrays, or what is wrong with the file."""
    found: dict[str, np.ndarray] = {}
    for name in result.evidence:
        path = store.results / Path(name).name
        if not path.is_file():
            return {}, f"The evidence file {path.name} is missing."
        try:
            with safe_open(path, framework="numpy") as file:
                found |= {field: file.get_tensor(field) for field in FIELDS if field in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, TypeError, ValueError):
            return {}, f"The evidence file {path.name} is damaged."
    if not {"gallery_x", "gallery_adv"} <= set(found):
        return {}, ""
    pairs = [
        [found[f"{kind}_{part}"].shape for part in ("x", "adv") if f"{kind}_{part}" in found]
        for kind in KINDS
    ]
    if any(shapes and (len(shapes) < 2 or shapes[0] != shapes[1]) for shapes in pairs):
        return {}, "The examples in the evidence do not fit together, so they are not drawn."
    return found, ""


def draw(
    result: Result, arrays: Mapping[str, np.ndarray], names: Sequence[str], kind: str = "gallery"
) -> Gallery | str:
    """Draw the examples of one case; says why where inputs of this shape cannot be drawn."""
    before, after, true, given = (arrays.get(f"{kind}_{part}") for part in ("x", "adv", "y", "pred"))
    assert before is not None
    assert after is not None
    before, after = before.astype(np.float64), after.astype(np.float64)
    trained = kind == "planted" or result.case.family in ("poisoning", "targeted")
    if not 2 <= before.ndim <= 4:
        shape = " x ".join(map(str, before.shape[1:])) or "none"
        return f"Inputs of shape {shape} are not drawn."
    change = np.nan_to_num(after - before)
    block = block_of(before.shape)
    factors = [_factor(delta) for delta in change]
    strength = np.reshape(factors, (-1, *[1] * (change.ndim - 1)))
    layers = [to_pixels(values, block) for values in (before, after, 0.5 + strength * change)]
    count = min(MOST, len(before), max(2, CASE_BYTES // (3 * layers[0][0].size)))
    return Gallery(
        key=result.key,
        form="strip" if before.ndim == 2 else "image",
        heading="Training rows that were changed" if kind == "planted" else "",
        labels=LABELS.get("poisoning" if kind == "planted" else result.case.family, ("before", "after")),
        width=layers[0].shape[2],
        height=layers[0].shape[1],
        note=_note(trained and result.case.family != "targeted", before.shape[1:], block, bool(change.any())),
        changed=bool(change.any()),
        pictures=tuple(
            Picture(
                **_told(_class(true, i, names), _class(given, i, names), trained),
                size=_moved(result.case, change[i]),
                difference=f"difference \u00d7{factors[i]}" if factors[i] > 1 else "difference",
                clean_png=png(layers[0][i]),
                changed_png=png(layers[1][i]),
                difference_png=png(layers[2][i]),
            )
            for i in range(count)
        ),
    )


def _factor(change: np.ndarray) -> int:
    """Choose how strongly to draw a change: as strong as it goes without leaving the scale."""
    most = float(np.abs(change).max(initial=0.0))
    # float32 rounds eps up a little; that must not cost a whole step of strength
    return max((n for n in NICE if n * most <= 0.5 + 1e-6), default=1) if most else 1


def block_of(shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of the blocks that are averaged into one pixel, equal where both sides allow."""
    if len(shape) == 2:
        return 1, 1
    height, width = shape[-2:]
    tall, wide = math.ceil(height / SIDE), math.ceil(width / SIDE)
    both = max(tall, wide)
    return (both, both) if min(height, width) >= both else (max(1, tall), max(1, wide))


def to_pixels(values: np.ndarray, block: tuple[int, int]) -> np.ndarray:
    """Turn inputs (N, D), (N, H, W) or (N, C, H, W) into uint8 pixels, averaged over blocks."""
    if values.ndim == 2:
        values = values[:, None, :]
    if values.ndim == 4:
        values = np.moveaxis(values, 1, -1) if values.shape[1] == 3 else values.mean(1)
    if block != (1, 1):
        tall, wide = block
        height, width = values.shape[1] // tall, values.shape[2] // wide
        cut = values[:, : height * tall, : width * wide]
        values = cut.reshape(len(cut), height, tall, width, wide, *cut.shape[3:]).mean((2, 4))
    levels: np.ndarray = np.rint(255 * np.clip(np.nan_to_num(values), 0, 1)).astype(np.uint8)
    return levels


def _note(relabelled: bool, shape: tuple[int, ...], block: tuple[int, int], changed: bool) -> str:
    if changed:
        parts = ["Differences are drawn as many times stronger as they say; mid-grey means unchanged."]
    else:
        labels = "; their labels were changed." if relabelled else "."
        parts = [f"The inputs are as they were{labels}"]
    if len(shape) == 1:
        parts.append(f"Each strip holds the {shape[0]} values of one input, from dark (0) to bright (1).")
    if len(shape) == 3 and shape[0] not in (1, 3):
        parts.append(f"Each picture is the mean of {shape[0]} channels.")
    if block != (1, 1):
        parts.append(f"Pictures are reduced: one pixel stands for {block[0]} x {block[1]}.")
    return " ".join(parts)


def _told(true: str, given: str, trained: bool) -> dict[str, Any]:
    """Say what an example was and what became of it."""
    changed = true != given
    if trained:
        after = f"trained as {given}" if changed else "label kept"
    else:
        after = f"read as {given}" if changed else f"still read as {given}"
    return {"before": true or "class unknown", "after": after if given else "", "changed": changed}


def _moved(case: Case, change: np.ndarray) -> str:
    """Say how far an example was moved, where the budget has a norm."""
    if not isinstance(case.budget, Lp | Print):
        return ""
    norm = case.budget.norm
    moved = float(norms.size(torch.from_numpy(change[None]), norm))
    level = round(255 * moved) / 255
    on_grid = norm == "linf" and abs(moved - level) < 1e-6
    return f"{words.NORMS[norm]} {format_eps(level) if on_grid else f'{moved:.3g}'}"


def _class(labels: np.ndarray | None, i: int, names: Sequence[str]) -> str:
    if labels is None or i >= len(labels):
        return ""
    label = int(labels[i])
    return names[label] if 0 <= label < len(names) else f"class {label}"
