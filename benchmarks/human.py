"""Measure pictures for people as their paper makes them: pairs of alike classes, and only those that fool all nets.

    python benchmarks/human.py [--rows 300] [--seed 0]

Five nets behind a retina make examples within linf 32/255; two further ones, of other kinds, judge them, on rows
that they get right. The control has the same change upside down. With the retina and without, also blurred.
"""

import argparse
from functools import partial

import torch
from torch import Tensor

from casemate.attacks.evasion.human import gaussian, human
from casemate.builtin.data import fashion_mini
from casemate.builtin.nets import small_cnn, small_mlp, small_patches, small_resnet, small_strided, small_vgg
from casemate.builtin.target import CLASSES, SHAPE, fashion_cnn
from casemate.core.ensemble import mean_logits
from casemate.core.recipe import Recipe
from casemate.core.target import Classifier, GradientOracle
from casemate.core.threat import Become, Lp, NeverReached
from casemate.ops.rng import generator, rows

MEMBERS = {
    "vgg": small_vgg,
    "strided": small_strided,
    "patches": small_patches,
    "mlp": small_mlp,
    "cnn": small_cnn,
}
# T-shirt and shirt, pullover and coat, sandal, sneaker and boot; the others have no like
ALIKE = {0: 6, 6: 0, 2: 4, 4: 2, 5: 7, 7: 9, 9: 7}
BLUR = 1.0


def share(model: Classifier, x: Tensor, x_adv: Tensor, goal: tuple[Tensor, Tensor], among: Tensor) -> str:
    """Share of the rows `among` that the model gets right which it then gives the target class."""
    y, t = goal
    rows = (model.predict(x).argmax(1) == y) & among
    return f"{(model.predict(x_adv[rows]).argmax(1) == t[rows]).float().mean():6.1%} of {int(rows.sum())}"


def main() -> None:
    """Train, attack, print one line per judge and way."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (("rows", 300), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    torch.set_num_threads(1)
    train, test = fashion_mini()
    nets = {}
    for i, (name, make) in enumerate({**MEMBERS, "resnet": small_resnet}.items()):
        recipe = Recipe(partial(make, SHAPE, CLASSES), name, epochs=8, lr=3e-3)
        nets[name] = recipe(train, rng=generator(given.seed, "net", i))
    judges = {"a residual net": nets.pop("resnet"), "the plain net": fashion_cnn()}
    some = test[torch.arange(given.rows) * (len(test) // given.rows)]
    some = some[torch.tensor([int(c) in ALIKE for c in some.y]).nonzero().flatten()]
    x, y = some.x, some.y
    t = torch.tensor([ALIKE[int(c)] for c in y])
    for way, blur in (("retina", 1.5), ("no retina", 0.0)):
        x_adv = human(
            GradientOracle(mean_logits(list(nets.values())), len(x)), x, NeverReached(Become(t)),
            Lp(norm="linf", eps=32 / 255), blur=blur, rng=rows(given.seed, len(x)),
        )  # fmt: skip
        kept = torch.stack([net.predict(x_adv).argmax(1) == t for net in nets.values()]).all(0)
        mirrored = (x + (x_adv - x).flip(2)).clamp(0, 1)
        print(f"{way}: {kept.float().mean():.1%} of {len(x)} fool all five", flush=True)
        for name, judge in judges.items():
            shown = {
                "all": (x_adv, torch.ones_like(kept)), "kept": (x_adv, kept), "kept, mirrored": (mirrored, kept),
                "kept, blurred": (gaussian(x_adv, BLUR), kept),
            }  # fmt: skip
            found = [f"{k} {share(judge, x, seen, (y, t), among)}" for k, (seen, among) in shown.items()]
            print(f"  {name}: {'; '.join(found)}", flush=True)


if __name__ == "__main__":
    main()
