"""What the commands do, as functions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from casemate.assess import assessment
from casemate.assess.assessment import Options
from casemate.assess.compare import compare
from casemate.assess.harden import harden
from casemate.assess.plan import Plan, adapting, read_plan
from casemate.assess.presets import preset
from casemate.assess.progress import Progress, silent
from casemate.assess.prove import prove
from casemate.assess.result import Assessment
from casemate.assess.scan import scan
from casemate.core.errors import UsageError
from casemate.report import build

__all__ = ["assess", "compare", "harden", "prove", "read", "report", "scan"]


def assess(
    model: Any = None,
    data: Any = None,
    *,
    plan: str | Path | Plan = "quick",
    out: str | Path = "out",
    seed: int | None = None,
    device: str = "auto",
    only: str | None = None,
    rows: int | None = None,
    recipe: str | None = None,
    workers: int | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    eot: int | None = None,
    bpda: Sequence[str] | None = None,
    command: str = "",
    progress: Progress = silent,
) -> Assessment:
    """Attack a model as its enemies would and write results, verdicts and report.html.

    Args:
        model: a net, a classifier or a specification such as "file.py:function"; None means the
            built-in one, or the plan's.
        data: (x, y), (x_train, y_train, x_test, y_test), samples or a specification such as
            "npz:FILE"; None means the built-in ones, or the plan's.
        plan: a preset ("quick", "standard", "thorough"), a file of TOML, or a plan.
        out: folder to write; finished cases in it are not run again.
        seed: base seed of all random numbers; None means the plan's.
        device: "auto", "cpu", "cuda" or "cuda:N".
        only: pattern of method or threat ids; of the others, what the folder has no answer to is listed
            as not tested.
        rows: number of test rows, instead of the plan's; poisoning and backdoors do not follow it.
        recipe: how models like the target are trained: "file.py:function", or settings such as
            "epochs=20,lr=0.001" of the usual recipe.
        workers: processes that train models; None means one per core.
        bounds: values that the model takes where the data have 0 and 1.
        mean: subtracted per channel after `bounds`.
        std: divided by per channel.
        eot: draws of a random model that each gradient is averaged over; None means the plan's, or 20
            where the model answers at random.
        bpda: patterns of the paths of layers that gradients go round, "auto" for those that stop
            them; None means the plan's, or "auto" where some do.
        command: what reproduces this run, printed in the report.
        progress: told of each case and its steps.

    Returns:
        The assessment: one verdict per threat, with interval, baseline and doubts.

    Raises:
        UsageError: an argument, file or plan is not as it must be; says which and why.
    """
    chosen = plan if isinstance(plan, Plan) else _plan(plan)
    chosen = adapting(chosen, eot, None if bpda is None else tuple(bpda))
    if model is not None and data is None and chosen.data is None:
        raise UsageError("A model needs its own labelled data: give --data as well, such as --data npz:FILE.")
    options = Options(
        model=_first(model, chosen.model, Options.model),
        data=_first(data, chosen.data, Options.data),
        recipe=recipe,
        bounds=bounds,
        mean=tuple(mean),
        std=tuple(std),
        device=device,
        workers=workers,
    )
    found = assessment.assess(
        plan=chosen,
        options=options,
        out=out,
        seed=seed,
        only=only,
        rows=rows,
        command=command,
        progress=progress,
    )
    progress.message("Writing the report")
    report(out)
    return found


def _plan(name: str | Path) -> Plan:
    return read_plan(name) if isinstance(name, Path) or name.endswith(".toml") else preset(name)


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)


def report(out: str | Path, formats: Sequence[str] = ("html",)) -> list[Path]:
    """Write the report of an assessment into its folder.

    Args:
        out: folder of an assessment.
        formats: any of html, md, json, sarif, junit.

    Returns:
        The files written.

    Raises:
        UsageError: there is no assessment in the folder, or it cannot be written.
    """
    return build(Path(out), formats)


def read(out: str | Path) -> Assessment:
    """Read the assessment that a folder holds.

    Args:
        out: folder of an assessment.

    Returns:
        The assessment.

    Raises:
        UsageError: there is none, or it is damaged.
    """
    from casemate.assess.store import Store

    return Store(out).assessment()
