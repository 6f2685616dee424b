"""Measure how much momentum helps examples to transfer: I-FGSM against MI-FGSM on small colour pictures.

    python benchmarks/transfer.py DATA.npz [--train 16000] [--epochs 6] [--rows 300] [--eps 8] [--seed 0]

DATA holds JPEG files end to end, train_jpeg and test_jpeg (uint8), where each begins and ends, train_offsets and
test_offsets (N + 1,), and train_labels and test_labels. Examples are made on each of two deep
nets within linf 8/255, at the same steps, and judged on nets of other kinds, on rows that these get right. Nets
are trained on pictures and their mirror images, seven minutes of CPU: with much less they are so poor that
nothing transfers.
"""

import argparse
import io
import time
from functools import partial

import numpy as np
import torch
from PIL import Image

from casemate.builtin.nets import small_cnn, small_resnet, small_strided, small_vgg
from casemate.core.data import Samples
from casemate.core.recipe import Recipe
from casemate.core.registry import find
from casemate.core.target import Classifier, GradientOracle, Prepared
from casemate.core.threat import Lp, Misclassify, NeverReached
from casemate.ops.rng import generator, rows

NETS = {
    "vgg": small_vgg,
    "resnet": partial(small_resnet, blocks=3),
    "cnn": small_cnn,
    "strided": small_strided,
}
ATTACKS = {
    "I-FGSM": ("mi_fgsm", {"decay": 0.0}),
    "MI-FGSM": ("mi_fgsm", {}),
    "TI-DIM": ("ti_fgsm", {"views": "di"}),
}


def read(path: str, part: str, count: int, seed: int) -> Samples:
    """Read some rows of one part as pictures (N, 3, H, W) in [0, 1]."""
    with np.load(path, allow_pickle=False) as file:
        whole, ends = file[f"{part}_jpeg"].tobytes(), file[f"{part}_offsets"]
        y = torch.from_numpy(file[f"{part}_labels"]).long()
    some = torch.randperm(len(y), generator=generator(seed, part))[:count]
    pictures = [np.asarray(Image.open(io.BytesIO(whole[ends[i] : ends[i + 1]]))) for i in some.tolist()]
    x = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    return Samples(x.float().contiguous() / 255, y[some], int(y.max()) + 1)


def errors(model: Classifier, x: torch.Tensor, x_adv: torch.Tensor, y: torch.Tensor) -> float:
    """Share of the rows that a model gets right which it gets wrong after the attack."""
    right = model.predict(x).argmax(1) == y
    return float((model.predict(x_adv[right]).argmax(1) != y[right]).float().mean())


def main() -> None:
    """Train the nets, attack, print one line per surrogate and attack."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data")
    for name, default in (("train", 16000), ("epochs", 6), ("rows", 300), ("eps", 8), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    train = read(given.data, "train", given.train, given.seed)
    train = Samples(torch.cat([train.x, train.x.flip(3)]), train.y.repeat(2), train.classes)
    test = read(given.data, "test", given.rows, given.seed)
    ball = Lp(norm="linf", eps=given.eps / 255)
    models = {}
    for i, (name, make) in enumerate(NETS.items()):
        recipe = Recipe(partial(make, train.shape, train.classes), name, epochs=given.epochs, lr=3e-3)
        models[name] = recipe(train, rng=generator(given.seed, "net", i))
        accuracy = (models[name].predict(test.x).argmax(1) == test.y).float().mean()
        print(f"{name:8} accuracy {accuracy:6.1%}, {time.process_time():.0f} s of CPU so far", flush=True)
    for surrogate in ("vgg", "resnet"):
        for title, (method, params) in ATTACKS.items():
            entry = find(f"evasion.{method}")
            oracle = GradientOracle(Prepared(models[surrogate]), len(test))
            x_adv = entry.run(
                oracle, test.x, NeverReached(Misclassify(test.y)), ball,
                rng=rows(given.seed, len(test)), **entry.validate(params),
            )  # fmt: skip
            found = {name: errors(model, test.x, x_adv, test.y) for name, model in models.items()}
            white = found.pop(surrogate)
            others = ", ".join(f"{name} {value:6.1%}" for name, value in found.items())
            print(f"{surrogate:8} {title:8} itself {white:6.1%}; {others}", flush=True)


if __name__ == "__main__":
    main()
