"""Write docs/evidence.md from what `casemate prove --all --json` printed.

casemate prove --all --seed 0 --seed 1 --seed 2 --json > proofs.json
python scripts/write_evidence.py proofs.json      # several files are put together
"""

import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

import torch

from casemate.core.registry import entries

PAGE = Path(__file__).parents[1] / "docs/evidence.md"
HEAD = """# Evidence

What every method shows on its reference scene: without an adversary, under the random baseline of equal budget (for
defences: without the defence), and with the method, each with its 95% interval. `casemate prove` repeats any line.

Generated on {date} by `scripts/write_evidence.py` with torch {torch} on {cores} CPU cores; {held} of
{total} runs met their bar. Seconds are wall clock.

| method | scene | seed | clean | baseline | method | bar | met | seconds |
|---|---|---|---|---|---|---|---|---|
"""


def number(proof: dict, name: str) -> str:
    """Write a number with its interval."""
    found = proof[name]
    if found is None:
        return proof["error"] or ""
    value, low, high = (float(found[k]) for k in ("value", "low", "high"))
    return f"{found['name'].replace('_', ' ')} {value:.3f} ({low:.3f} to {high:.3f})"


def main() -> None:
    """Write the page."""
    proofs = [proof for name in sys.argv[1:] for proof in json.loads(Path(name).read_text())]
    proofs.sort(key=lambda proof: (proof["id"], proof["seed"]))
    absent = [entry.id for entry in entries() if entry.id not in {proof["id"] for proof in proofs}]
    held = sum(p["holds"] for p in proofs)
    date = datetime.now(UTC).date().isoformat()
    lines = [
        f"| `{p['id']}` | {p['scene']} | {p['seed']} | {number(p, 'clean')} | {number(p, 'baseline')} | "
        f"{number(p, 'attack')} | {p['bar']} | {'yes' if p['holds'] else '**no**'} | {p['seconds']:.0f} |"
        for p in proofs
    ]
    PAGE.write_text(
        HEAD.format(date=date, torch=torch.__version__, held=held, total=len(proofs), cores=os.cpu_count())
        + "\n".join(lines)
        + "\n"
        + (f"\nNot in this run: {', '.join(f'`{name}`' for name in absent)}.\n" if absent else "")
    )


if __name__ == "__main__":
    main()
