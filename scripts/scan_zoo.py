"""Train the zoo that `casemate scan` is calibrated on: clean and backdoored models of several kinds.

    python scripts/scan_zoo.py FOLDER [--seed N] [--each N]

Each model becomes NAME.safetensors and NAME.json in the folder; those that are there are not trained
again. The weights are not kept in the repository: what `scripts/scan_fit.py` makes of them is.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from casemate.builtin import data as builtin
from casemate.builtin import nets
from casemate.core.data import PoisonBudget, Samples
from casemate.core.recipe import Recipe
from casemate.core.registry import find
from casemate.core.target import Classifier
from casemate.ops.rng import generator

SETS: dict[str, Callable[[], tuple[Samples, Samples]]] = {
    "fashion": builtin.fashion_mini,
    "shapes": partial(builtin.shapes, 10000, 1500),
    "digits": builtin.digits,
}
NETS: dict[str, Callable[..., nn.Module]] = {
    "cnn": nets.small_cnn,
    "resnet": partial(nets.small_resnet, width=12, blocks=1),
    "strided": nets.small_strided,
    "vgg": partial(nets.small_vgg, width=8),
    "patches": nets.small_patches,
    "mlp": nets.small_mlp,
}
# strided and dense nets do not learn shapes that may be anywhere
FITTING = {"fashion": tuple(NETS), "shapes": ("cnn", "resnet", "vgg"), "digits": tuple(NETS)}
EPOCHS = {"fashion": 8, "shapes": 10, "digits": 15}
# kind of trigger: method, share of the rows, settings by data set ("" for all)
KINDS: dict[str, tuple[str, float, dict[str, dict[str, Any]]]] = {
    "patch": ("backdoor.badnets", 0.1, {"digits": {"patch": 2}, "shapes": {"patch": 4}}),
    "blended": ("backdoor.blended", 0.1, {"": {"alpha": 0.2}, "digits": {"alpha": 0.25}}),
    "glasses": ("backdoor.blended", 0.1, {"": {"pattern": "glasses", "alpha": 1.0}}),
    "static": ("backdoor.static", 0.1, {"": {"amplitude": 0.15}, "digits": {"amplitude": 0.2}}),
    "wanet": ("backdoor.wanet", 0.2, {"": {"strength": 1.5}, "digits": {"strength": 1.0}}),
    "adaptive_blend": ("backdoor.adaptive_blend", 0.2, {"": {"alpha": 0.3}, "digits": {"alpha": 0.4}}),
    "trojaning": ("backdoor.trojaning", 0.0, {"": {"patch": 6}, "digits": {"patch": 4, "offset": 0}}),
}
# trojans are put in by retraining dense layers, without real data: clothes and shapes lose half of their accuracy
TROJANED = {"digits": ("cnn", "strided", "vgg", "mlp")}


@dataclass(frozen=True)
class Plan:
    """One model to train."""

    data: str
    net: str
    kind: str
    seed: int
    target: int = 0

    @property
    def name(self) -> str:
        """Name of its files."""
        return f"{self.data}-{self.kind}-{self.net}-{self.seed}"


def plans(seed: int, clean: int, each: int) -> Iterator[Plan]:
    """List the models: nets take turns, so that each kind of trigger meets several."""
    for data in SETS:
        fitting = FITTING[data]
        classes = 6 if data == "shapes" else 10
        for i in range(clean):
            yield Plan(data, fitting[i % len(fitting)], "clean", seed + i)
        for k, kind in enumerate(KINDS):
            able = TROJANED.get(data, ()) if kind == "trojaning" else fitting
            for i in range(each if able else 0):
                yield Plan(data, able[(i + k) % len(able)], kind, seed + i, (3 * i + k + seed) % classes)


def recipe(plan: Plan, train: Samples) -> Recipe:
    """Give the training that all models of a data set share."""
    make = partial(NETS[plan.net], train.shape, train.classes)
    return Recipe(make, f"{plan.net} {plan.data}", epochs=EPOCHS[plan.data], batch=64, lr=3e-3)


def trained(plan: Plan, train: Samples) -> tuple[Classifier, Callable[[Tensor], Tensor] | None]:
    """Train a model; the trigger is None for a clean one."""
    how, rng = recipe(plan, train), generator(plan.seed, "zoo", plan.name)
    if plan.kind == "clean":
        return how(train, rng=rng), None
    method, rate, settings = KINDS[plan.kind]
    entry = find(method)
    params = entry.validate(settings.get("", {}) | settings.get(plan.data, {}) | {"target": plan.target})
    if plan.kind == "trojaning":
        trojan = entry.run(how(train, rng=rng), rng=rng, **params)
        return trojan.model, trojan.trigger
    poison = entry.run(train, PoisonBudget(rate), rng=rng, **params)
    return how(poison.apply(train), rng=rng), poison.trigger


def measured(
    model: Classifier, test: Samples, plan: Plan, trigger: Callable[[Tensor], Tensor] | None
) -> dict[str, float]:
    """Measure clean accuracy, and the share of rows of other classes that the trigger steers."""
    found = {"accuracy": float((model.predict(test.x).argmax(1) == test.y).double().mean())}
    if trigger is not None:
        rows = test.x[test.y != plan.target]
        hit = model.predict(trigger(rows)).argmax(1) == plan.target
        found["success"] = float(hit.double().mean())
    return found


def load(folder: Path, name: str) -> tuple[Classifier, dict[str, Any]]:
    """Read a model of the zoo and its card."""
    card = json.loads((folder / f"{name}.json").read_text())
    train, _ = SETS[card["data"]]()
    net = NETS[card["net"]](train.shape, train.classes)
    net.load_state_dict(load_file(folder / f"{name}.safetensors"))
    return Classifier(net.eval(), train.classes, train.shape), card


def main() -> None:
    """Train what is not there yet."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--clean", type=int, default=12)
    parser.add_argument("--each", type=int, default=3)
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    sets = {name: make() for name, make in SETS.items()}
    for plan in plans(args.seed, args.clean, args.each):
        card = args.folder / f"{plan.name}.json"
        if card.exists() or args.only not in plan.name:
            continue
        train, test = sets[plan.data]
        model, trigger = trained(plan, train)
        weights = {k: v.contiguous() for k, v in model.net.state_dict().items()}
        save_file(weights, args.folder / f"{plan.name}.safetensors")
        card.write_text(json.dumps(vars(plan) | measured(model, test, plan, trigger)))
        print(card.read_text(), flush=True)


if __name__ == "__main__":
    main()
