"""Train the generators of clothing images and write them, with what made them, into the package.

    python scripts/train_generators.py [vae] [wgan_gp] [conditional_gan]

Takes some minutes of one core each. They see the training images only. The weights differ a little
between processors and versions of torch.
"""

import sys
from pathlib import Path

import torch

from casemate.builtin.data import fashion_mini
from casemate.builtin.target import digest
from casemate.core.data import Samples
from casemate.generators.conditional_gan import train_conditional_gan
from casemate.generators.files import save
from casemate.generators.models import Model
from casemate.generators.vae import train_vae
from casemate.generators.wgan_gp import train_wgan_gp
from casemate.ops.rng import generator

FOLDER = Path(__file__).parents[1] / "src/casemate/builtin"
SEED = 0
SETTINGS: dict[str, dict[str, int]] = {
    "vae": {"latent": 16, "width": 32, "steps": 5000},
    "wgan_gp": {"latent": 16, "width": 32, "steps": 3000, "critic_steps": 2},
    "conditional_gan": {"latent": 32, "width": 48, "steps": 4000, "critic_steps": 2},
}


def train(kind: str, data: Samples) -> Model:
    """Train one generator."""

    def tell(step: int, total: int, values: object) -> None:
        if step % 250 == 0:
            print(kind, step, total, values, flush=True)

    rng, how = generator(SEED, kind), SETTINGS[kind]
    match kind:
        case "vae":
            return train_vae(data.x, **how, rng=rng, tick=tell)
        case "wgan_gp":
            return train_wgan_gp(data.x, **how, rng=rng, tick=tell)
    return train_conditional_gan(data.x, data.y, data.classes, **how, rng=rng, tick=tell)


def main() -> None:
    """Train those that are named, or all."""
    torch.set_num_threads(1)
    data, _ = fashion_mini()
    for kind in sys.argv[1:] or SETTINGS:
        made = {
            "recipe": f"{kind} {SETTINGS[kind]}",
            "seed": str(SEED),
            "data": f"fashion_mini, training images only, {digest([data.x, data.y])}",
        }
        path = FOLDER / f"generator_fashion_{kind}.safetensors"
        save(train(kind, data), path, made)
        path.chmod(0o644)  # it is written for its owner only


if __name__ == "__main__":
    main()
