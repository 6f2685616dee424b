"""How fast poison is made: by a generator, against the direct gradient method of the same paper.

python benchmarks/poisoning.py            minutes
python benchmarks/poisoning.py --tiny     the same in small, to see that it runs
"""

import argparse
import time
from collections.abc import Callable

import torch

from casemate.attacks.poisoning.direct_gradient import direct_gradient
from casemate.attacks.poisoning.generative import _auto_encoder, generative
from casemate.core.data import Poison, PoisonBudget, split
from casemate.core.online import online
from casemate.core.workshop import Workshop
from casemate.ops.rng import generator
from casemate.scenes.poisoning import all_digits, fifty_steps, read_before

SEED, RATE = 10, 0.1


def cpu(work: Callable[[], object]) -> float:
    """Seconds of process CPU that `work` takes."""
    start = time.process_time()
    work()
    return time.process_time() - start


def run(say: Callable[[str], None], *, tiny: bool = False) -> None:
    """Measure and print."""
    train, test = all_digits()
    past, incoming = split(train, 600, generator(SEED, "history"))
    spare, judged = split(test, len(test) // 2, generator(SEED, "validation"))
    model = read_before()(past, rng=generator(SEED))
    recipe = online(fifty_steps(), model)
    shop, budget = Workshop(incoming, recipe, lambda count: [], spare), PoisonBudget(RATE)
    few = {"steps": 2} if tiny else {}

    def lost(poison: Poison) -> float:
        """Points of accuracy that a victim loses, mean of three."""
        rights = [
            [float((recipe(data, rng=generator(SEED, k)).predict(judged.x).argmax(1) == judged.y).double().mean())
             for data in (incoming, poison.apply(incoming))]
            for k in range(1 if tiny else 3)
        ]  # fmt: skip
        return 100 * sum(fair - dirty for fair, dirty in rights) / len(rights)

    made: dict[str, Poison] = {}

    def craft(name: str, how: Callable[..., Poison]) -> float:
        def work() -> None:
            made[name] = how(shop, budget, rng=generator(SEED, "craft"), **few)

        return cpu(work)

    spent = {"direct": craft("direct", direct_gradient), "generative": craft("generative", generative)}
    net = _auto_encoder(incoming.x, 16, 1, generator(SEED)).eval()
    with torch.no_grad():
        net(incoming.x)
        use = min(cpu(lambda: [net(incoming.x) for _ in range(5)]) for _ in range(3)) / 5 / len(incoming)
    direct = spent["direct"] / len(made["direct"].rows)
    say(f"- direct: {1 / direct:.1f} images per CPU s; {lost(made['direct']):.1f} points lost")
    say(f"- generative: {1 / use:.0f} images per CPU s once trained, {direct / use:.0f} times as many;")
    say(
        f"  training takes {spent['generative']:.1f} CPU s, as long as {spent['generative'] / direct:.0f} direct images;"
    )
    say(f"  {lost(made['generative']):.1f} points lost")


def main() -> None:
    """Run alone."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tiny", action="store_true", help="small numbers, to see that everything runs")
    torch.set_num_threads(1)
    run(lambda text: print(text, flush=True), tiny=parser.parse_args().tiny)


if __name__ == "__main__":
    main()
