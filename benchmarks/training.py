"""How fast a recipe trains, against a bare loop of torch with channels-last memory.

    python benchmarks/training.py [--rows 2000] [--repeats 5]

Both train the built-in net on the built-in images, with the same optimiser, schedule and batches, in
one thread. The processor time is that of this process; the two take turns, and the least of each is
compared, so that busy neighbours count little. Prints one JSON object; exits with 1 below 95%.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable

import torch
from torch.nn import functional as F

from casemate.builtin.data import fashion_mini
from casemate.builtin.target import recipe
from casemate.core.data import Samples
from casemate.ops.rng import generator

GOAL = 0.95


def bare(data: Samples) -> None:
    """Train as one would by hand: torch's own schedule, one gather per batch."""
    how = recipe()
    torch.manual_seed(0)
    net = how.make().to(memory_format=torch.channels_last).train()
    x = data.x.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(net.parameters(), lr=how.lr, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, how.lr, total_steps=how.steps(len(data)))
    for _ in range(how.epochs):
        for rows in torch.randperm(len(data)).split(how.batch):
            optimizer.zero_grad()
            F.cross_entropy(net(x[rows]), data.y[rows]).backward()
            optimizer.step()
            schedule.step()


def ours(data: Samples) -> None:
    """Train by the recipe."""
    recipe()(data, rng=generator(0))


def seconds(run: Callable[[Samples], None], data: Samples) -> float:
    """Processor time of one training."""
    begun = time.process_time()
    run(data)
    return time.process_time() - begun


def main() -> int:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2000, help="training images, a multiple of 64 or not")
    parser.add_argument("--repeats", type=int, default=5, help="trainings of each kind")
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = fashion_mini()[0][slice(0, given.rows)]
    spent: dict[str, list[float]] = {"bare": [], "recipe": []}
    for _ in range(given.repeats):
        for name, run in (("bare", bare), ("recipe", ours)):
            spent[name].append(seconds(run, data))
    least = {name: min(times) for name, times in spent.items()}
    speed = least["bare"] / least["recipe"]
    print(json.dumps({"cpu_seconds": least, "speed": speed, "goal": GOAL, "holds": speed >= GOAL}, indent=2))
    return 0 if speed >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
