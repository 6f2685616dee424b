"""Standard output for people."""

import sys

from rich.console import Console

WIDTH = 120  # columns where the output is no terminal, and nobody says how many there are


def console() -> Console:
    """Open standard output, wide enough for a table also where it is a file."""
    return Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
