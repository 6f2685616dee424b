"""Measure what attacks through a channel, and those that train networks, cost beyond their passes.

Ratio = process CPU of the attack over that of its passes alone. A pass of EOT is the channel, the model and the
way back through both, for ways that were drawn before; one of an ATN's training is its network, the model and
the way back, with the optimiser's step. Attack and floor take turns; the smallest of several times counts.

    python benchmarks/physical.py [--repeats 5]
"""

import argparse
from collections.abc import Callable

import torch
from overhead import cpu, never_fooled
from torch import Tensor

from casemate.builtin.data import fashion_mini
from casemate.builtin.target import fashion_cnn
from casemate.core.budget import Print
from casemate.core.perturber import perturber
from casemate.core.registry import find
from casemate.core.target import GradientOracle, Prepared
from casemate.core.threat import Become, Lp, Misclassify
from casemate.ops.rng import generator, rows


def ratio(
    attack: Callable[[], object], floor: Callable[[], object], repeats: int
) -> tuple[float, float, float]:
    """Seconds of the attack, of its passes, and the quotient of the least of each."""
    attack()
    floor()
    pairs = [(cpu(attack), cpu(floor)) for _ in range(repeats)]
    spent, passes = (min(times) for times in zip(*pairs, strict=True))
    return spent, passes, spent / passes


def eot(repeats: int, x: Tensor, steps: int = 5, draws: int = 20) -> tuple[float, float, float]:
    """EOT against its passes through print, camera and model."""
    prepared, budget = Prepared(never_fooled()), Print(eps=0.1)
    goal = Misclassify(torch.zeros(len(x), dtype=torch.int64))
    entry = find("physical.eot")
    ways = budget.channel.sample(draws, rows(0, len(x)), tuple(x.shape[1:]))

    def attack() -> None:
        oracle = GradientOracle(prepared, len(x))
        params = entry.validate({"steps": steps, "draws": draws})
        entry.run(oracle, x, goal, budget, rng=rows(0, len(x)), **params)

    def floor() -> None:
        for _ in range(steps):
            z = x.detach().requires_grad_()
            torch.autograd.grad(prepared.exact(budget.channel.apply(z, ways).flatten(0, 1)).sum(), z)

    return ratio(attack, floor, repeats)


def atn(repeats: int, x: Tensor, steps: int = 50, batch: int = 64) -> tuple[float, float, float]:
    """ATN's training, for one weight, against its network's and the model's passes and Adam's steps."""
    prepared, budget = Prepared(fashion_cnn()), Lp(norm="l2", eps=5.0)
    goal, entry = Become(torch.full((len(x),), 3)), find("universal.atn")
    params = entry.validate({"steps": steps, "batch": batch, "beta": 0.003})
    params.pop("target")  # what the harness makes the goal of

    def attack() -> None:
        entry.run(GradientOracle(prepared, len(x)), x, goal, budget, rng=generator(0), **params)

    def floor() -> None:
        # the targets of all rows are computed once
        with torch.no_grad():
            prepared.exact(x)
        net = perturber(x, params["width"], params["hidden"], generator(0))
        optimizer = torch.optim.Adam(net.parameters())
        for step in range(steps):
            part = x[torch.arange(step * batch, (step + 1) * batch) % len(x)]
            optimizer.zero_grad()
            prepared.exact(part + net(part).tanh()).sum().backward()
            optimizer.step()

    return ratio(attack, floor, repeats)


def main() -> None:
    """Print one line per attack."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    x = fashion_mini()[0].x
    print(f"{'method':<14}{'attack s':>10}{'passes s':>10}{'ratio':>7}")
    for name, measure, some in (("physical.eot", eot, x[::500]), ("universal.atn", atn, x[::10])):
        spent, passes, quotient = measure(repeats, some)
        print(f"{name:<14}{spent:>10.3f}{passes:>10.3f}{quotient:>7.2f}", flush=True)


if __name__ == "__main__":
    main()
