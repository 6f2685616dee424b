"""Mend a model that a scan called backdoored, scan it again, and measure before and after."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from casemate.assess.digest import digest, digest_net
from casemate.assess.mended_weights import keep_weights, kept_weights
from casemate.assess.progress import Progress, silent
from casemate.assess.scan import Scanned, clean_rows, scan_loaded
from casemate.assess.targets import load_data, load_model
from casemate.assess.unlearning import unlearned
from casemate.core.data import Samples
from casemate.core.errors import NotApplicable, UsageError
from casemate.core.registry import Entry, entries, find
from casemate.core.stamps import Warped
from casemate.core.target import Classifier
from casemate.core.triggers import Added, Mixed
from casemate.ops.rng import generator
from casemate.ops.stats import Estimate, exact_share

FILE, TRIGGERS = "scan.json", "scan.safetensors"
UNLEARNING = "unlearning"
MENDING = 0.6  # share of the clean rows that repairs see; the others judge them
PRICE = 0.05  # clean accuracy, in points of 1, that a repair may cost if there is a cheaper one
REAL = 0.5  # success from which on a recovered trigger counts
Trigger = Callable[[Tensor], Tensor]


class _Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")

    model: str | None
    data: str | None
    bounds: tuple[float, float]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    device: str
    seed: int
    mended_by: str = ""


class _Detector(BaseModel):
    model_config = ConfigDict(frozen=True)

    success: list[float]
    evidence_in_references: list[float]


class ScanFile(BaseModel):
    """What mending reads of scan.json; `suspect` is a class of every detector."""

    model_config = ConfigDict(frozen=True)

    model: str
    data: str
    outcome: str
    suspect: NonNegativeInt
    options: _Options
    digests: dict[str, str]
    detectors: dict[str, _Detector]
    weights_in_references: dict[str, list[float]]

    @model_validator(mode="after")
    def _suspect_is_a_class(self) -> Self:
        if any(self.suspect >= len(d.success) for d in self.detectors.values()):
            raise ValueError(f"there is no class {self.suspect}")
        return self


@dataclass(frozen=True)
class Effect:
    """On rows that no repair saw: clean accuracy, and success of the recovered trigger that steers most."""

    accuracy: Estimate
    success: Estimate


@dataclass(frozen=True)
class Mended:
    """The chosen repair and its model, effects by repair, that of none included, and the scan of the result.

    `left_out` says which repairs do not fit and why.
    """

    chosen: str
    model: Classifier
    suspect: int
    effects: dict[str, Effect]
    left_out: dict[str, str]
    again: Scanned


def is_scan(out: Path) -> bool:
    """Tell whether a folder's last work was a scan, and not an assessment."""
    scan, assessment = out / FILE, out / "assessment.json"
    if not scan.is_file():
        return False
    return not assessment.is_file() or scan.stat().st_mtime > assessment.stat().st_mtime


def mend(
    *, out: Path | str, defence: str | None = None, seed: int | None = None, progress: Progress = silent
) -> Mended:
    """Try every registered repair, and unlearning of the recovered triggers, on a scanned model.

    What a stopped run had mended is taken up from `out`/hardened.

    Args:
        out: folder of a finished scan that called its model backdoored.
        defence: a repair by any of its names, or "unlearning"; None means all.
        seed: seed of all random numbers; None means the scan's.
        progress: told of each repair and of the second scan.

    Returns:
        The model in which the recovered triggers have least success, among the repairs that cost at most
        five points of clean accuracy or the one that costs least, and what a second scan says of it.

    Raises:
        UsageError: there is no such scan, or the defence is no repair.
    """
    said = _read(Path(out))
    repairs = _repairs(defence)
    given = said.options.model_dump()
    seed = int(given["seed"]) if seed is None else seed
    data = load_data(given["data"], bounds=tuple(given["bounds"]))
    clean = clean_rows(data.test, int(given["seed"]))
    loaded = load_model(given["model"], clean, bounds=tuple(given["bounds"]), mean=tuple(given["mean"]),
                        std=tuple(given["std"]), device=given["device"])  # fmt: skip
    _unchanged(said, {"model": loaded.digest, "data": data.digest})
    model, suspect = loaded.classifier, said.suspect
    # the loader may have moved the model to another device
    there = Samples(clean.x.to(model.device), clean.y.to(model.device), clean.classes, clean.names)
    order = torch.randperm(len(clean), generator=generator(seed, "repair rows"))
    seen, unseen = (
        there[part]
        for part in order.split([round(MENDING * len(clean)), len(clean) - round(MENDING * len(clean))])
    )
    triggers = _triggers(Path(out), said, model.device)
    about: list[str | bytes] = [loaded.digest, data.digest, (Path(out) / TRIGGERS).read_bytes(), str(seed)]
    progress.plan(list(repairs))
    effects, models, left_out = {"none": effect(model, unseen, triggers, suspect)}, {}, {}
    for name, repair in repairs.items():
        progress.start(name, name)
        path, made = Path(out) / "hardened" / f"{name}.safetensors", digest(*about, *_versions(), name)
        try:
            mended = kept_weights(model, path, made)
            if mended is None:
                mended = repair(model, seen, triggers, rng=generator(seed, name), tick=progress.step)
                keep_weights(mended, model, path, made)
            effects[name] = effect(mended, unseen, triggers, suspect)
            models[name] = mended
        except (NotApplicable, UsageError) as error:  # one that diverges as well: the others may do
            left_out[name] = str(error)
        progress.finish(name, None)
    if not models:
        raise UsageError(f"No repair fits this model: {'; '.join(f'{k}: {v}' for k, v in left_out.items())}.")
    chosen = best(effects)
    usual = {k: torch.tensor(d.evidence_in_references) for k, d in said.detectors.items()}
    again = scan_loaded(
        models[chosen], clean, names=(f"{said.model} after {chosen}", said.data),
        options={**given, "mended_by": chosen}, seed=int(given["seed"]),
        digests={"model": digest_net(models[chosen].net), "data": data.digest},
        usual={**usual, **{k: torch.tensor(v) for k, v in said.weights_in_references.items()}},
        progress=progress,
    )  # fmt: skip
    left = effects[chosen].success.value
    if left >= REAL and not again.why:
        # the score was never fitted to mended models: what is seen to steer counts for more
        again = replace(again, why=f"a recovered trigger still steers {100 * left:.0f}% of the pictures")
    return Mended(chosen, models[chosen], suspect, effects, left_out, again)


def _unchanged(said: ScanFile, now: Mapping[str, str]) -> None:
    """Refuse to mend anything but what was scanned: its triggers would be another model's."""
    for part, name in (("model", said.model), ("data", said.data)):
        if said.digests.get(part) != now[part]:
            raise UsageError(
                f"The {part} {name} must be as it was scanned. It has changed since: scan it again."
            )


def _versions() -> list[str]:
    """Name repairs with their versions: what another version made is not taken up."""
    return [f"{UNLEARNING} 1", *(f"{entry.id} {entry.version}" for entry in entries("repair"))]


def best(effects: Mapping[str, Effect]) -> str:
    """Choose the repair that leaves the triggers least, among those that are cheap, or the cheapest."""
    least = effects["none"].accuracy.value - PRICE
    tried = {name: e for name, e in effects.items() if name != "none"}
    cheap = {name: e for name, e in tried.items() if e.accuracy.value >= least}
    if not cheap:
        return max(tried, key=lambda name: tried[name].accuracy.value)
    return min(cheap, key=lambda name: (cheap[name].success.value, -cheap[name].accuracy.value))


def effect(model: Classifier, unseen: Samples, triggers: Sequence[Trigger], suspect: int) -> Effect:
    """Measure a model on rows that no repair saw; triggers on those of other classes that it gets right."""
    right = model.predict(unseen.x).argmax(1) == unseen.y
    rows = unseen.x[right & (unseen.y != suspect)]
    hits = [int((model.predict(trigger(rows)).argmax(1) == suspect).sum()) for trigger in triggers]
    return Effect(exact_share(int(right.sum()), len(unseen)), exact_share(max(hits), len(rows)))


def _repairs(defence: str | None) -> dict[str, Callable[..., Classifier]]:
    known: dict[str, Callable[..., Classifier]] = {e.id: partial(_registered, e) for e in entries("repair")}
    known[UNLEARNING] = unlearned
    if defence is None:
        return known
    name = defence if defence == UNLEARNING else find(defence).id
    if name not in known:
        raise UsageError(f"A scanned model is mended by {', '.join(known)}. Got {name}.")
    return {name: known[name]}


def _registered(
    entry: Entry, model: Classifier, seen: Samples, triggers: Sequence[Trigger], **settings: Any
) -> Classifier:
    mended: Classifier = entry.run(model, seen, **settings)
    return mended


def _read(out: Path) -> ScanFile:
    try:
        said = ScanFile.model_validate_json((out / FILE).read_bytes())
    except (OSError, ValidationError):
        raise UsageError(f"{out} must be the folder of a finished scan. Its {FILE} cannot be read.") from None
    if said.outcome != "backdoored":
        raise UsageError(f"There must be a backdoor to mend. The scan in {out} says: {said.outcome}.")
    if said.options.model is None or said.options.data is None:
        raise UsageError("A scan of a model or data in memory cannot be repeated; scan by specifications.")
    if said.options.mended_by:
        raise UsageError(
            f"The scan in {out} is of a model that was mended already. Scan the file of that model to mend it."
        )
    return said


def _triggers(out: Path, said: ScanFile, device: torch.device) -> list[Trigger]:
    """Read the suspect's triggers that work; the best one where none does well."""
    try:
        tensors = load_file(out / TRIGGERS, device=str(device))
    except (OSError, SafetensorError) as error:
        raise UsageError(f"The triggers in {out / TRIGGERS} cannot be read: {error}.") from None
    found: list[tuple[float, Trigger]] = []
    for name, numbers in said.detectors.items():
        rate = numbers.success[said.suspect]
        if f"{name}/pattern" in tensors:
            found.append((rate, Mixed(tensors[f"{name}/pattern"], tensors[f"{name}/mask"])))
        elif f"{name}/delta" in tensors:
            found.append((rate, Added(tensors[f"{name}/delta"])))
        elif f"{name}/shifts" in tensors:
            found.append((rate, Warped(tensors[f"{name}/shifts"])))
    if not found:
        raise UsageError(f"{out / TRIGGERS} must hold the triggers of a scan. Got none.")
    found.sort(key=lambda each: -each[0])
    return [trigger for rate, trigger in found if rate >= REAL] or [found[0][1]]
