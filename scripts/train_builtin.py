"""Train the built-in targets and write their weights, with what made them, into the package.

    python scripts/train_builtin.py

Takes a few minutes of one core. The weights differ a little between processors and versions of torch.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from casemate.attacks.evasion.pgd import pgd
from casemate.builtin.data import fashion_mini
from casemate.builtin.target import digest, recipe
from casemate.core.data import Samples
from casemate.core.recipe import Recipe
from casemate.core.target import Classifier, GradientOracle, Prepared
from casemate.core.threat import Lp, Misclassify
from casemate.defences.training.adversarial import adversarial
from casemate.ops.rng import generator, rows

FOLDER = Path(__file__).parents[1] / "src/casemate/builtin"
SEED = 0
BUDGET = Lp(norm="linf", eps=0.1)
STEPS = 40


def share(right: torch.Tensor) -> str:
    """Write a share of rows."""
    return f"{float(right.double().mean()):.4f}"


def attacked(model: Classifier, test: Samples) -> torch.Tensor:
    """Tell which test rows stand against PGD on the margin, (N,) bool."""
    oracle = GradientOracle(Prepared(model), len(test))
    goal = Misclassify(test.y)
    x_adv = pgd(oracle, test.x, goal, BUDGET, steps=STEPS, loss="margin", rng=rows(0, len(test)))
    return ~goal.reached(model.predict(x_adv))


def write(name: str, how: Recipe, extra: Mapping[str, str]) -> None:
    """Train one target, measure it and write it."""
    train, test = fashion_mini()
    model = how(train, rng=generator(SEED), tick=lambda step, total, values: print(name, step, total, values))
    weights = {key: value.contiguous() for key, value in model.net.state_dict().items()}
    made = {
        "recipe": how.digest(),
        "epochs": str(how.epochs),
        "seed": str(SEED),
        "data": digest([train.x, train.y, test.x, test.y]),
        "weights": digest(weights[key] for key in sorted(weights)),
        "accuracy": share(model.predict(test.x).argmax(1) == test.y),
        f"accuracy under {STEPS} steps of margin PGD at linf 0.1": share(attacked(model, test)),
        **extra,
    }
    path = FOLDER / f"{name}.safetensors"
    save_file(weights, path, metadata=made)
    path.chmod(0o644)  # it is written for its owner only
    print(made)


def main() -> None:
    """Train both."""
    torch.set_num_threads(1)
    plain = recipe()
    write("fashion_cnn", plain, {"training": "plain"})
    longer = adversarial(replace(plain, epochs=25), eps=0.1, norm="linf")
    write("fashion_cnn_robust", longer, {"training": "adversarial, linf 0.1"})


if __name__ == "__main__":
    main()
