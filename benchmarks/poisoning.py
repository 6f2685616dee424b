"""Compare poisons and screenings with ART: time, success and price, judged by fresh victims.

python benchmarks/poisoning.py               everything, about ten minutes on an idle core
python benchmarks/poisoning.py --tiny        the same in small, to see that everything runs
python benchmarks/poisoning.py --only gradient_matching
"""

import argparse
import platform
from datetime import UTC, datetime

import numpy
import peers
import torch
from poison_contests import CONTESTS, TINY, Sizes
from poison_turns import Round, Score

from casemate.ops.stats import Estimate

FASTER = 3.0


def table(result: Round) -> str:
    """Write a contest as Markdown."""
    unit = "CPU s per aim" if result.per > 1 else "CPU s"
    lines = [
        f"### {result.title}",
        "",
        f"| library | {unit} | x ours | {result.success} | {result.harm} |",
        "|---|---|---|---|---|",
    ]
    for s in result.scores:
        if s.skipped:
            lines.append(f"| {s.name} | {s.skipped} | | | |")
            continue
        seconds = (
            "| |" if s.baseline else f"{s.seconds / result.per:.3f} | {s.seconds / result.own.seconds:.1f} |"
        )
        lines.append(f"| {s.name} | {seconds} {_percent(s.success)} | {_percent(s.harm)} |")
    return "\n".join([*lines, "", *(goal(result, rival) for rival in result.rivals), ""])


def goal(result: Round, rival: Score) -> str:
    """Say whether we are as fast and as good as we want to be against one rival."""
    own = result.own
    ratio = rival.seconds / own.seconds
    better = own.success.value >= rival.success.value
    text = f"{own.success.value - rival.success.value:+.1%} success"
    if result.screens:
        better = better and own.harm.value <= rival.harm.value
        text += f", {own.harm.value - rival.harm.value:+.1%} of the clean rows"
    reached = "reached" if ratio >= FASTER and better else "MISSED"
    wanted = f"at least {FASTER:g} times as fast as {rival.name}, at equal or better success"
    return f"- {reached}: {wanted}: {ratio:.1f} times, {text}"


def _percent(value: Estimate) -> str:
    return f"{100 * value.value:.1f} ({100 * value.low:.0f} to {100 * value.high:.0f})"


def main() -> None:
    """Hold the contests asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="*", default=(), choices=CONTESTS)
    parser.add_argument("--tiny", action="store_true", help="small numbers, to see that everything runs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    seen = peers.versions()["ART"]
    print(
        f"{datetime.now(UTC):%Y-%m-%d}, python {platform.python_version()}, torch {torch.__version__}, "
        f"numpy {numpy.__version__}, ART {seen}; process CPU, least of the turns, one thread\n"
    )
    for name in options.only or CONTESTS:
        for result in CONTESTS[name](TINY if options.tiny else Sizes()):
            print(table(result), flush=True)


if __name__ == "__main__":
    main()
