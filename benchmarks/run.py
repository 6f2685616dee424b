"""Run every benchmark and write down what came out.

python benchmarks/run.py                 everything, about an hour on one core
python benchmarks/run.py --tiny          the same in small, to see that it runs
python benchmarks/run.py --only square   some contests
"""

import argparse
import dataclasses
import json
import math
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import evasion
import forward
import numpy
import peers
import torch
import universal


def surroundings() -> dict[str, Any]:
    """What the numbers depend on besides the code."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "processor": _processor(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "threads": torch.get_num_threads(),
        "peers": peers.versions(),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def record(rounds: Sequence[evasion.Round]) -> list[dict[str, Any]]:
    """Contests as plain values."""
    return [
        {
            "title": r.task.title,
            "scores": [_score(s) for s in r.scores],
            "goals": [dataclasses.asdict(goal) for goal in r.goals],
        }
        for r in rounds
    ]


def _score(score: Any) -> dict[str, Any]:
    if score.skipped:
        return {"name": score.name, "skipped": score.skipped}
    values = {
        "seconds": score.seconds,
        "floor": score.floor,
        "forwards": score.forwards,
        "backwards": score.backwards,
        "standing": score.standing,
        "median": score.median,
    }
    # JSON knows no infinity: a median of images that mostly stand has none
    return {"name": score.name} | {k: v if math.isfinite(v) else None for k, v in values.items()}


def main() -> None:
    """Run, print, and write `benchmarks.md` and `benchmarks.json`."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="*", default=(), choices=[*evasion.CONTESTS, "universal"])
    parser.add_argument("--tiny", action="store_true", help="small numbers, to see that everything runs")
    parser.add_argument("--out", type=Path, default=Path("out-benchmarks"), help="folder for the results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    written: list[str] = []

    def say(text: str) -> None:
        print(text, flush=True)
        written.append(text)
        # after each contest, so that an interrupted run leaves what it had
        (options.out / "benchmarks.md").write_text("\n".join(written), encoding="utf-8")

    about = surroundings()
    say("# Benchmarks\n")
    if options.tiny:
        say("Sizes are tiny: these numbers show that everything runs, and nothing else.\n")
    say("\n".join(f"- {key}: {value}" for key, value in about.items()) + "\n")
    say("## Forward passes without a graph\n\n" + forward.table(2 if options.tiny else 7) + "\n")
    say("## Evasion\n")
    contests = [name for name in options.only if name != "universal"]
    rounds = []
    if contests or not options.only:
        rounds = evasion.run(evasion.TINY if options.tiny else evasion.Sizes(), contests, say)
    if "universal" in options.only or not options.only:
        say("## Universal\n")
        universal.run(say, tiny=options.tiny)
    file = {"surroundings": about, "evasion": record(rounds)}
    (options.out / "benchmarks.json").write_text(json.dumps(file, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
