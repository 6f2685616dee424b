"""Adversarial training: the batch is attacked as hard as a linear net allows, and nothing else is touched."""

from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from casemate.core.data import Samples
from casemate.core.recipe import Recipe, cross_entropy
from casemate.defences.training.adversarial import adversarial
from casemate.defences.training.inner import climb, step_length, still
from casemate.ops.norms import size
from casemate.ops.rng import generator


def linear(weight: Tensor) -> nn.Module:
    net = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    net.weight = nn.Parameter(weight)
    return net


@dataclass(frozen=True)
class Recorder:
    """A batch loss that keeps what it was given."""

    seen: list[Tensor]

    def __call__(self, net: nn.Module, x: Tensor, y: Tensor, /, *, rng: Generator) -> Tensor:
        self.seen.append(x)
        return cross_entropy(net, x, y, rng=rng)


X = 0.3 + 0.4 * torch.rand(6, 5, generator=generator(0))
Y = torch.arange(6) % 2
WEIGHT = torch.randn(2, 5, generator=generator(1))
PLAIN = Recipe(partial(nn.Linear, 5, 2), "linear")


def worst(norm: str, eps: float) -> Tensor:
    """The gradient of the odds of error of a linear net is w_other - w_y: its best step in closed form."""
    direction = (WEIGHT[1 - Y] - WEIGHT[Y]).clone()
    if norm == "linf":
        return X + eps * direction.sign()
    if norm == "l2":
        return X + eps * direction / direction.norm(dim=1, keepdim=True)
    best = direction.abs().argmax(1, keepdim=True)
    return X + eps * torch.zeros_like(X).scatter(1, best, direction.gather(1, best).sign())


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_a_linear_net_is_trained_on_the_exact_worst_inputs(norm: str) -> None:
    """No edge of the box is within eps. Random starts leave l2 and l1 a rest that many steps remove."""
    seen: list[Tensor] = []
    how = adversarial(
        replace(PLAIN, batch_loss=Recorder(seen)), eps=0.1, norm=norm, steps=200, step_size=0.05
    )
    loss = how.batch_loss(linear(WEIGHT), X, Y, rng=generator(2))
    torch.testing.assert_close(seen[0], worst(norm, 0.1), atol=2e-3, rtol=0)
    assert loss.item() == pytest.approx(float(F.cross_entropy(worst(norm, 0.1) @ WEIGHT.T, Y)), abs=2e-3)


def test_attacked_inputs_stay_in_ball_and_box() -> None:
    seen: list[Tensor] = []
    x = torch.rand(50, 5, generator=generator(3)).round(decimals=1)
    for norm, eps in (("linf", 0.3), ("l2", 0.5), ("l1", 0.7)):
        how = adversarial(replace(PLAIN, batch_loss=Recorder(seen)), eps=eps, norm=norm)
        how.batch_loss(linear(WEIGHT), x, torch.arange(50) % 2, rng=generator(2))
        assert seen[-1].min() >= 0
        assert seen[-1].max() <= 1
        assert (size(seen[-1] - x, norm) <= eps * (1 + 1e-5)).all()


def test_a_saturated_net_is_attacked_as_well() -> None:
    """Logits of a million: the gradient of cross-entropy is exactly zero in float32."""
    seen: list[Tensor] = []
    how = adversarial(replace(PLAIN, batch_loss=Recorder(seen)), eps=0.1)
    net = linear(1e6 * WEIGHT)
    right = net(X).argmax(1)
    how.batch_loss(net, X, right, rng=generator(2))
    direction = WEIGHT[1 - right] - WEIGHT[right]
    torch.testing.assert_close(seen[0], X + 0.1 * direction.sign())


def test_batch_statistics_see_the_attacked_batch_once() -> None:
    """Of steps + 1 forward passes only the last trains: one batch is counted, dropout is off before."""
    net = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2)).train()
    modes: list[bool] = []
    net[2].register_forward_hook(lambda layer, *_: modes.append(layer.training))
    adversarial(PLAIN, eps=0.1, steps=3).batch_loss(net, X, Y, rng=generator(0)).backward()
    assert int(net[1].num_batches_tracked) == 1
    assert modes == [False] * 3 + [True]
    assert net.training


def test_only_the_loss_leaves_gradients() -> None:
    net = linear(WEIGHT.clone())
    seen: list[Tensor] = []
    adversarial(replace(PLAIN, batch_loss=Recorder(seen)), eps=0.1).batch_loss(
        net, X, Y, rng=generator(0)
    ).backward()
    expected = linear(WEIGHT.clone())
    F.cross_entropy(expected(seen[0]), Y).backward()
    assert torch.equal(net.weight.grad, expected.weight.grad)
    assert not seen[0].requires_grad


def test_still_puts_every_flag_back_also_after_an_error() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).train()
    net[1].eval()
    net[0].bias.requires_grad_(False)
    seen: list[bool] = []

    def fail() -> None:
        with still(net):
            seen.extend(p.requires_grad for p in net.parameters())
            seen.extend(module.training for module in net.modules())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not any(seen)
    assert (net[0].training, net[1].training) == (True, False)
    assert (net[0].weight.requires_grad, net[0].bias.requires_grad) == (True, False)


def test_the_default_step_reaches_past_the_radius() -> None:
    assert step_length(None, 0.1, 5) == pytest.approx(0.05)
    assert step_length(0.01, 0.1, 5) == 0.01


def test_no_steps_give_the_start() -> None:
    assert torch.equal(climb(lambda z: z.sum(1), X, X, "linf", 0.1, 0, 0.1), X)


def test_robust_rows_where_plain_training_has_none() -> None:
    """Two features: x0 tells the class by a margin of 0.02 without error, x1 by 0.4 with 10% of errors.

    Within linf 0.1 an attack can turn x0 over, so a net that relies on it has no robust rows; one that
    relies on x1 keeps 90%.
    """
    y = torch.arange(400) % 2
    rng = generator(5)
    sign = 2.0 * y - 1
    wrong = torch.rand(400, generator=rng) < 0.1
    x = torch.stack([0.5 + 0.02 * sign, 0.5 + 0.2 * torch.where(wrong, -sign, sign)], 1)
    data = Samples(x, y, 2)
    how = Recipe(partial(nn.Linear, 2, 2), "linear", epochs=60, batch=50, lr=0.3)
    robust = []
    for recipe in (how, adversarial(how, eps=0.1)):
        net = recipe(data, rng=generator(6)).net
        direction = (net.weight[1] - net.weight[0]).detach()
        at_worst = net(x - 0.1 * sign[:, None] * direction.sign()).argmax(1)
        robust.append(float((at_worst == y).double().mean()))
    assert robust[0] < 0.5
    assert robust[1] > 0.85
