"""Universal perturbations: strength at ART's own cost, overhead beyond the passes, and speed of use.

python benchmarks/universal.py            a few minutes
python benchmarks/universal.py --tiny     the same in small, to see that it runs
"""

import argparse
import time
from collections.abc import Callable

import torch
from contest import BATCH, Counted
from torch import Tensor

from casemate.attacks.evasion.pgd import pgd
from casemate.attacks.universal.atn import atn
from casemate.attacks.universal.uap import uap
from casemate.builtin.data import fashion_mini
from casemate.builtin.target import fashion_cnn
from casemate.core.target import Classifier, GradientOracle, Prepared
from casemate.core.threat import Become, Lp, Misclassify, NeverReached
from casemate.ops.rng import generator, rows

EPS = 0.2


def cpu(work: Callable[[], object]) -> float:
    """Seconds of process CPU that `work` takes."""
    start = time.process_time()
    work()
    return time.process_time() - start


def standing(target: Classifier, x: Tensor, y: Tensor, delta: Tensor) -> float:
    """Share of the images still classified correctly with a perturbation."""
    return float((target.predict((x + delta).clamp(0, 1)).argmax(1) == y).double().mean())


def art_uap(target: Classifier, x: Tensor) -> Tensor:
    """UAP of ART by PGD steps, with its two passes over the set: the perturbation (1, C, H, W)."""
    import numpy as np
    from art.attacks.evasion import UniversalPerturbation
    from art.estimators.classification import PyTorchClassifier

    np.random.seed(0)  # noqa: NPY002 - what ART draws from
    model = PyTorchClassifier(
        Counted(target.net), torch.nn.CrossEntropyLoss(), target.shape, target.classes,
        clip_values=(0.0, 1.0), device_type="cpu",
    )  # fmt: skip
    attack = UniversalPerturbation(
        model, attacker="pgd", attacker_params={"eps": EPS, "eps_step": EPS / 5, "max_iter": 10, "verbose": False},
        delta=0.2, max_iter=2, eps=EPS, norm=np.inf, verbose=False,
    )  # fmt: skip
    x_adv = attack.generate(x.numpy())
    noise = attack.noise
    return (
        torch.as_tensor(noise, dtype=x.dtype).view(1, *x.shape[1:])
        if noise is not None
        else (torch.from_numpy(x_adv) - x).mean(0, keepdim=True)
    )


def run(say: Callable[[str], None], *, tiny: bool = False) -> None:
    """Measure and print."""
    train, test = fashion_mini()
    target = fashion_cnn()
    n, steps, repeats = (50, 6, 1) if tiny else (200, 100, 3)
    x = train.x[torch.arange(n) * (len(train) // n)]
    goal = Misclassify(target.predict(x).argmax(1))
    budget = Lp(norm="linf", eps=EPS)
    say(f"### UAP, linf {EPS}, learnt from {n} images\n")

    spent, passes = [], []
    delta = torch.zeros(1, *x.shape[1:])

    def ours() -> None:
        nonlocal delta
        oracle = GradientOracle(Prepared(target), len(x))
        learnt = uap(oracle, x, goal, budget, steps=steps, batch=100, rng=generator(0))
        half = torch.full((1, *x.shape[1:]), 0.5)
        delta = learnt(half) - half

    prepared = Prepared(target)
    part = x[:100]

    def both() -> None:
        z = torch.zeros(1, *x.shape[1:], requires_grad=True)
        torch.autograd.grad(prepared.exact((part + z).clamp(0, 1)).sum(), z)

    for _ in range(repeats):
        spent.append(cpu(ours))
        passes.append(cpu(lambda: [both() for _ in range(steps)]))
    left = standing(target, test.x, test.y, delta)
    say(
        f"- casemate: {min(spent):.2f} CPU s, {min(spent) / min(passes):.2f} x floor, {100 * left:.1f}% stand"
    )
    try:
        seconds = cpu(
            lambda: say(f"- ART: {100 * standing(target, test.x, test.y, art_uap(target, x)):.1f}% stand")
        )
        say(f"- ART: {seconds:.2f} CPU s, the judging of the test images included")
    except ImportError as error:
        say(f"- ART: not importable: {error}")
    _atn(say, prepared, train.x[: 50 if tiny else 2000], repeats, steps)


def _atn(say: Callable[[str], None], prepared: Prepared, x: Tensor, repeats: int, steps: int) -> None:
    """Use of an ATN against PGD-40, per image."""
    goal = Become(torch.full((len(x),), 3))
    learnt = atn(
        GradientOracle(prepared, len(x)), x, goal, Lp(norm="l2", eps=5.0), beta=0.003, steps=steps,
        rng=generator(0),
    )  # fmt: skip
    some = x[:BATCH]
    never = NeverReached(Misclassify(torch.zeros(len(some), dtype=torch.int64)))
    learnt(some)
    use = min(cpu(lambda: [learnt(some) for _ in range(20)]) for _ in range(repeats)) / 20
    climb = min(
        cpu(lambda: pgd(GradientOracle(prepared, len(some)), some, never, Lp(norm="linf", eps=0.1),
                        rng=rows(0, len(some))))
        for _ in range(repeats)
    )  # fmt: skip
    quotient = climb / use
    say(f"\n### ATN\n\n- one image costs 1/{quotient:.0f} of PGD-40 (goal: 1/100)\n")


def main() -> None:
    """Run alone."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tiny", action="store_true", help="small numbers, to see that everything runs")
    torch.set_num_threads(1)
    run(lambda text: print(text, flush=True), tiny=parser.parse_args().tiny)


if __name__ == "__main__":
    main()
