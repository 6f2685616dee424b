"""Generators are functions of their data and seed, and come back from files as they were."""

import pytest
import torch

from casemate.generators.conditional_gan import train_conditional_gan
from casemate.generators.files import load, names, save
from casemate.generators.nets import penalty
from casemate.generators.vae import train_vae
from casemate.generators.wgan_gp import train_wgan_gp
from conformance.bystanders import generator, untouched


def bars(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures with one bright half: left for class 0, right for class 1."""
    y = torch.arange(n) % 2
    x = torch.zeros(n, 1, 8, 8)
    x[y == 0, :, :, :4] = 1
    x[y == 1, :, :, 4:] = 1
    return x, y


def trained(kind: str, steps: int = 20):
    x, y = bars(32)
    how = {"latent": 2, "width": 8, "rows": 16, "steps": steps, "rng": generator(1)}
    match kind:
        case "vae":
            return train_vae(x, **how)
        case "wgan_gp":
            return train_wgan_gp(x, **how, critic_steps=2)
    return train_conditional_gan(x, y, 2, **how, critic_steps=2)


def made(model) -> torch.Tensor:
    z = torch.randn(4, 2, generator=generator(2))
    return model.decode(z, torch.tensor([0, 1, 0, 1])) if hasattr(model, "classify") else model.decode(z)


@pytest.mark.parametrize("kind", ["vae", "wgan_gp", "conditional_gan"])
def test_training_repeats_itself_and_files_give_back_what_they_got(kind, tmp_path):
    with untouched():
        first, second = trained(kind), trained(kind)
    assert torch.equal(made(first), made(second))
    path = tmp_path / "model.safetensors"
    save(first, path, {"recipe": "test"})
    with untouched():
        again = load(str(path))
    assert torch.equal(made(again), made(first))


def test_a_changed_file_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    from casemate.generators.files import card

    path = tmp_path / "model.safetensors"
    save(trained("vae", 1), path, {})
    weights = load_file(path)
    save_file({k: v + 1 for k, v in weights.items()}, path, metadata=card(path))
    with pytest.raises(ValueError, match="not those that were written"):
        load(str(path))


def test_an_unknown_generator_is_refused_and_the_shipped_are_named():
    with pytest.raises(ValueError, match="generator_fashion_vae"):
        load("nothing")


def test_vae_makes_two_pictures_again():
    """Two pictures need one bit of code, so that nearly nothing is lost."""
    model, (x, _) = trained("vae", 400), bars(4)
    assert (model.decode(model.encode(x)) - x).abs().mean() < 0.1


def test_penalty_of_a_linear_critic_is_known():
    """The gradient of <w, x> is w everywhere: with |w| = 3 the penalty is (3 - 1)^2 = 4."""
    w = torch.zeros(1, 1, 4, 4)
    w[0, 0, 0, 0] = 3.0
    x = torch.rand(5, 1, 4, 4, generator=generator())
    found = penalty(lambda v: (v * w).flatten(1).sum(1), x, 1 - x, generator())
    torch.testing.assert_close(found, torch.tensor(4.0))


@pytest.mark.parametrize("name", names())
def test_shipped_generators_make_pictures(name):
    model = load(name)
    z = torch.zeros(2, model.latent)
    x = model.decode(z, torch.zeros(2).long()) if hasattr(model, "classify") else model.decode(z)
    assert x.shape == (2, 1, 28, 28)
    assert ((x >= 0) & (x <= 1)).all()
