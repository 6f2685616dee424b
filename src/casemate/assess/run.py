"""Answer cases one by one: skip what is answered, keep what comes, never let one take others down."""

import platform
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import torch

from casemate.assess.bench import Bench
from casemate.assess.case import Case, told_apart
from casemate.assess.families import judge_of
from casemate.assess.progress import Progress
from casemate.assess.result import Provenance, Result
from casemate.core.errors import Cancelled, NotApplicable
from casemate.core.registry import find
from casemate.ops.rng import seed_of, seeded


def run(
    cases: Sequence[Case], bench: Bench, progress: Progress, kept: Collection[str] = ()
) -> Iterator[Result]:
    """Answer cases in order.

    A case whose key has a finished answer is not run again; failures are tried again.

    Args:
        cases: the questions.
        bench: the target with its data and store.
        progress: told of each case and its steps.
        kept: keys of cases that are not run again even where they were skipped or failed.

    Yields:
        One result per case, stored before it is yielded.
    """
    titles = _titles(cases)
    progress.plan(titles)
    for case, title in zip(cases, titles, strict=True):
        known = bench.store.get(case.key)
        final = known is not None and (known.status == "done" or case.key in kept)
        if known is not None and final and bench.store.whole(known):
            progress.start(case.key, f"{title} (kept)")
            progress.finish(case.key, known)
            yield known
            continue
        doubt = bench.store.doubt(case.key)
        if doubt:
            progress.message(f"{doubt}: this case is computed again.")
        progress.start(case.key, title)
        result = answer(case, bench, progress)
        progress.finish(case.key, result)
        yield result


def answer(case: Case, bench: Bench, progress: Progress) -> Result:
    """Run one case and store its result; a crash becomes a visible failed result."""
    entry = find(case.method)
    begun = time.perf_counter()
    try:
        # a net that draws random numbers must answer alike whatever ran before this case
        with seeded(seed_of(case.seed, case.key), bench.target.device):
            found = judge_of(case.family)(entry, case, bench, progress.step)
    except NotApplicable as error:
        return bench.store.put(_absent(case, "skipped", str(error), bench))
    except Cancelled:
        raise
    except Exception as error:  # wrong use as well, once other cases may have answers
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return bench.store.put(_absent(case, "failed", reason, bench))
    result = Result(
        key=case.key,
        case=case,
        status="done",
        headline=found.headline,
        metrics=found.metrics,
        baseline=found.baseline,
        clean=found.clean,
        curves=found.curves,
        flags=found.flags,
        spent=found.spent.model_copy(update={"seconds": time.perf_counter() - begun}),
        provenance=provenance(bench.target.device),
        notes=found.notes,
    )
    return bench.store.put(result, found.tensors)


def _absent(case: Case, status: str, reason: str, bench: Bench) -> Result:
    return Result.model_validate(
        {
            "key": case.key,
            "case": case,
            "status": status,
            "reason": reason,
            "outcome": "not_tested" if status == "skipped" else "inconclusive",
            "provenance": provenance(bench.target.device),
        }
    )


def _titles(cases: Sequence[Case]) -> list[str]:
    """Name cases for progress lines; settings are told only where names would be alike."""
    names = [describe(case) for case in cases]
    return [
        f"{name} ({settings})" if settings and names.count(name) > 1 else name
        for name, settings in zip(names, told_apart(cases), strict=True)
    ]


def describe(case: Case) -> str:
    """Name a case for a progress line."""
    rate = f" at {100 * case.rate:g}%" if case.rate is not None else ""
    behind = f" behind {', '.join(case.defences)}" if case.defences else ""
    return f"{case.method}{rate}{behind}"


def provenance(device: torch.device) -> Provenance:
    """Say with what results are computed."""
    return Provenance(
        casemate=_version(),
        python=sys.version.split()[0],
        torch=torch.__version__,
        numpy=np.__version__,
        device=str(device),
        platform=platform.platform(),
        threads=torch.get_num_threads(),
        git=_git(),
        time=datetime.now(UTC).isoformat(timespec="seconds"),
    )


@cache
def _version() -> str:
    try:
        return version("casemate")
    except PackageNotFoundError:
        return "unknown"


@cache
def _git() -> str:
    """State of the repository that the command runs in; empty where there is none."""
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
