"""Measure what evasion attacks cost beyond their passes through the model.

Ratio = process CPU of an attack on a model it never fools, over (forward passes x time of a forward)
+ (backward passes x time of a forward and backward minus a forward). Attack and floor take turns in
one process, with the same channels-last copy of the model, on the same batch; the smallest of several
times counts. Process CPU, not wall clock: other work on the machine disturbs it least.

    python benchmarks/overhead.py
    python benchmarks/overhead.py pgd:linf apgd:l2 --batch 125 --repeats 5
"""

import argparse
import time
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from casemate.core.registry import Cost, Entry, find
from casemate.core.target import Classifier, Ledger, Prepared
from casemate.core.threat import Lp, Misclassify
from casemate.ops.rng import rows

EPS = {"linf": 0.1, "l2": 1.5, "l1": 10.0, "l0": 20.0}
DEFAULT = ("fgsm:linf", "pgd:linf", "pgd:l2", "pgd:l1", "mi_fgsm:linf", "apgd:linf", "apgd:l2", "apgd_l1:l1")
TRANSFER = tuple(f"{name}:linf" for name in (
    "mi_fgsm", "ni_fgsm", "vmi_fgsm", "di_fgsm", "ti_fgsm", "si_fgsm", "pgn", "bsr",
))  # fmt: skip


class Residual(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip
        self.short = nn.Sequential()
        if before != width:
            self.short = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """Add what the convolutions find."""
        return torch.relu(self.main(x) + self.short(x))


def small() -> nn.Sequential:
    """Convnet of 16 and 32 channels and 64 hidden units."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * 7 * 7, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def resnet18() -> nn.Sequential:
    """The residual net of 18 layers in the form that is usual for pictures of 32 pixels."""
    widths = (64, 64, 128, 256, 512)
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    for i, (before, width) in enumerate(pairwise(widths)):
        layers += [Residual(before, width, 2 if i else 1), Residual(width, width, 1)]
    return nn.Sequential(*layers, nn.AvgPool2d(4), nn.Flatten(), nn.Linear(512, 10))


NETS = {"small": (small, (1, 28, 28)), "resnet18": (resnet18, (3, 32, 32))}


def never_fooled(name: str) -> Classifier:
    """Net with random weights that gives class 0, of 10, whatever comes."""
    make, shape = NETS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = make()
    with torch.no_grad():
        net[-1].bias[0] += 1e3
    return Classifier(net, 10, shape)


def cpu(work: Callable[[], object]) -> float:
    """Seconds of process CPU that `work` takes."""
    start = time.process_time()
    work()
    return time.process_time() - start


def measure(
    entry: Entry, norm: str, x: Tensor, prepared: Prepared, repeats: int, settings: dict[str, int]
) -> tuple[Cost, float, float]:
    """Passes per row, seconds of the attack and seconds of its passes alone (smallest of `repeats`)."""
    params = entry.validate(settings)
    goal, budget = Misclassify(torch.zeros(len(x), dtype=torch.int64)), Lp(norm=norm, eps=EPS[norm])
    ledger = Ledger.empty(len(x))

    def attack() -> None:
        nonlocal ledger
        ledger = Ledger.empty(len(x))
        entry.run(entry.access(prepared, ledger), x, goal, budget, rng=rows(0, len(x)), **params)

    def forward() -> None:
        with torch.no_grad():
            prepared.net(x)

    def both() -> None:
        z = x.detach().requires_grad_()
        torch.autograd.grad(prepared.net(z).sum(), z)

    attack()
    queries, gradients = int(ledger.queries.max()), int(ledger.gradients.max())
    spent, passes = [], []
    for _ in range(repeats):
        one = cpu(lambda: [both() for _ in range(gradients)])
        alone = cpu(lambda: [forward() for _ in range(queries - gradients)])
        spent.append(cpu(attack))
        passes.append(one + alone)
    return Cost(queries=queries, gradients=gradients), min(spent), min(passes)


def main() -> None:
    """Print one line per method and norm."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("methods", nargs="*", help="method:norm")
    parser.add_argument("--transfer", action="store_true", help="all methods whose examples are to transfer")
    parser.add_argument("--net", choices=NETS, default="small")
    parser.add_argument("--steps", type=int, help="instead of each method's own number")
    parser.add_argument("--batch", type=int, default=125)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    target = never_fooled(options.net)
    x = torch.rand(options.batch, *target.shape, generator=torch.Generator().manual_seed(0))
    prepared, settings = Prepared(target), {"steps": options.steps} if options.steps else {}
    print(
        f"{'method':<16}{'norm':<6}{'forward':>8}{'backward':>9}{'attack s':>10}{'passes s':>10}{'ratio':>7}"
    )
    for name in options.methods or (TRANSFER if options.transfer else DEFAULT):
        method, _, norm = name.partition(":")
        cost, spent, passes = measure(find(method), norm, x, prepared, options.repeats, settings)
        print(
            f"{method:<16}{norm:<6}{cost.queries:>8}{cost.gradients:>9}{spent:>10.3f}{passes:>10.3f}"
            f"{spent / passes:>7.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
