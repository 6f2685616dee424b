"""What a target makes of photographs of a sheet."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from casemate.assess.photographs import cut, locate, read_photograph
from casemate.assess.sheet import Kind, Sheet
from casemate.core.errors import UsageError
from casemate.core.target import Classifier
from casemate.ops.stats import Estimate, mean_share, share


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")


class Seen(_Frozen):
    """One picture in one photograph: its class, what the target says of the file and of the photograph."""

    photo: str
    pair: int
    kind: Kind
    label: int
    digital: int
    photographed: int


class Score(_Frozen):
    """What became of a sheet: accuracies of files and photographs, and the destruction rate.

    Numbers of photographs are means over the pictures; several photographs of one picture are
    averaged first, because they are not independent. `destruction_rate` is over the pairs whose original
    is read rightly and whose adversarial file is not: how often the photograph is read rightly again.
    """

    sheet: str
    model: str
    photos: int
    pictures: int
    accuracy: dict[str, Estimate]
    accuracy_in_photos: dict[str, Estimate]
    destruction_rate: Estimate
    seen: tuple[Seen, ...]


def score(photos: Sequence[Path], sheet: Sheet, target: Classifier, model: str = "") -> Score:
    """Find a sheet's pictures in photographs and let a target classify them.

    Args:
        photos: files of pictures that each show one or more pages of the sheet.
        sheet: what was printed where.
        target: the classifier.
        model: its name.

    Returns:
        The score.

    Raises:
        UsageError: a file is no picture or does not show the sheet, or the target does not fit it.
    """
    if tuple(target.shape) != sheet.shape:
        raise UsageError(
            f"The model must take pictures of the sheet's shape {sheet.shape}. Got {target.shape}."
        )
    files = target.predict(sheet.pictures()).argmax(1).tolist()
    seen: list[Seen] = []
    for path in photos:
        photo = read_photograph(path)
        for page in locate(photo, sheet, str(path)):
            here = [(i, crop) for i, crop in enumerate(sheet.crops) if crop.page == page.page]
            pictures = np.stack([cut(photo, page, crop, sheet.shape) for _, crop in here])
            answers = target.predict(torch.from_numpy(pictures)).argmax(1).tolist()
            seen += [
                Seen(
                    photo=path.name, pair=c.pair, kind=c.kind, label=c.label, digital=files[i], photographed=a
                )
                for (i, c), a in zip(here, answers, strict=True)
            ]
    kinds: tuple[Kind, ...] = ("clean", "adversarial")
    return Score(
        sheet=sheet.digest[:12],
        model=model,
        photos=len(photos),
        pictures=len({(s.pair, s.kind) for s in seen}),
        accuracy={kind: _files(seen, kind) for kind in kinds},
        accuracy_in_photos={kind: mean_share(list(_right(seen, kind).values())) for kind in kinds},
        destruction_rate=_destruction(seen),
        seen=tuple(seen),
    )


def _files(seen: Sequence[Seen], kind: Kind) -> Estimate:
    right = {s.pair: s.digital == s.label for s in seen if s.kind == kind}
    return share(sum(right.values()), len(right))


def _right(seen: Sequence[Seen], kind: Kind) -> dict[int, float]:
    """Share of its photographs that are read rightly, by pair."""
    found: dict[int, list[bool]] = {}
    for s in seen:
        if s.kind == kind:
            found.setdefault(s.pair, []).append(s.photographed == s.label)
    return {pair: sum(right) / len(right) for pair, right in found.items()}


def _destruction(seen: Sequence[Seen]) -> Estimate:
    known = {s.pair for s in seen if s.kind == "clean" and s.digital == s.label}
    fooled = {s.pair for s in seen if s.kind == "adversarial" and s.digital != s.label} & known
    return mean_share([v for pair, v in _right(seen, "adversarial").items() if pair in fooled])
