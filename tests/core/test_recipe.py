"""Training: deterministic, alone with its random numbers, and careful with the last batch."""

from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from casemate.core.data import Samples
from casemate.core.errors import Cancelled, UsageError
from casemate.core.recipe import Recipe, cross_entropy, one_cycle
from casemate.core.target import Classifier
from casemate.ops.rng import generator


def net() -> nn.Module:
    """Everything that may depend on the global generator or on batch statistics."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3),
        nn.Linear(144, 3),
    )  # fmt: skip


def plain() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 2))


def images(n: int = 50, classes: int = 3, seed: int = 0) -> Samples:
    """Images whose class is the row of blocks that is bright."""
    rng = generator(seed, "images")
    y = torch.arange(n) % classes
    x = 0.3 * torch.rand(n, 1, 6, 6, generator=rng)
    for label in range(classes):
        x[y == label, :, 2 * label : 2 * label + 2] += 0.6
    return Samples(x, y, classes)


def points(n: int = 40) -> Samples:
    x = torch.rand(n, 4, generator=generator(0, "points"))
    return Samples(x, (x[:, 0] > 0.5).long(), 2)


def weights(model: Classifier) -> list[Tensor]:
    return list(model.net.state_dict().values())


def equal(first: Classifier, second: Classifier) -> bool:
    return all(torch.equal(a, b) for a, b in zip(weights(first), weights(second), strict=True))


SMALL = Recipe(net, "net", epochs=3, batch=16, lr=1e-2)


def test_a_victim_learns() -> None:
    model = replace(SMALL, epochs=10)(images(120), rng=generator(1))
    test = images(60, seed=5)
    assert (model.predict(test.x).argmax(1) == test.y).float().mean() > 0.95


def test_the_same_generator_gives_the_same_weights_and_another_gives_others() -> None:
    first, again, other = (SMALL(images(), rng=generator(seed)) for seed in (1, 1, 2))
    assert equal(first, again)
    assert not equal(first, other)


def test_the_loop_equals_a_plain_loop_of_torch() -> None:
    """AdamW by hand, with the learning rates of the schedule and the batches that the generator orders.

    Reference without weight decay: m and v are decaying means of g and g^2 with their bias taken out,
    w -= lr * m / (sqrt(v) + 1e-8).
    """
    data = points(10)
    recipe = Recipe(plain, "plain", epochs=2, batch=4, lr=0.1)
    model = recipe(data, rng=generator(3))

    rng = generator(3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (), generator=rng)))
        reference = plain()
    w = [p.detach().clone() for p in reference.parameters()]
    m, v = [torch.zeros_like(p) for p in w], [torch.zeros_like(p) for p in w]
    step = 0
    for _ in range(2):
        order = torch.randperm(10, generator=rng)
        for part in (order[:4], order[4:8], order[8:]):
            lr = 0.1 * one_cycle(step / 6)
            step += 1
            leaves = [p.clone().requires_grad_() for p in w]
            loss = F.cross_entropy(data.x[part] @ leaves[0].T + leaves[1], data.y[part])
            for i, g in enumerate(torch.autograd.grad(loss, leaves)):
                m[i] = 0.9 * m[i] + 0.1 * g
                v[i] = 0.999 * v[i] + 0.001 * g**2
                w[i] -= lr * (m[i] / (1 - 0.9**step)) / ((v[i] / (1 - 0.999**step)).sqrt() + 1e-8)
    for ours, theirs in zip(model.net.parameters(), w, strict=True):
        torch.testing.assert_close(ours.detach(), theirs, atol=1e-5, rtol=1e-4)


def test_global_random_numbers_are_left_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    SMALL(images(), rng=generator(1))
    assert torch.equal(torch.rand(3), expected)


def test_global_random_numbers_are_left_alone_when_training_is_stopped() -> None:
    def stop(*_: object) -> None:
        raise Cancelled("enough")

    before = torch.get_rng_state()
    with pytest.raises(Cancelled):
        SMALL(images(), rng=generator(1), tick=stop)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_callers_random_state_does_not_matter() -> None:
    torch.manual_seed(1)
    first = SMALL(images(), rng=generator(1))
    torch.manual_seed(2)
    assert equal(first, SMALL(images(), rng=generator(1)))


@pytest.mark.parametrize(
    ("n", "expected"), [(32, [16, 16]), (40, [16, 16, 8]), (33, [16, 17]), (3, [3]), (17, [17])]
)
def test_every_row_is_used_once_per_epoch_and_never_alone(n: int, expected: list[int]) -> None:
    seen: list[Tensor] = []

    def loss(net: nn.Module, x: Tensor, y: Tensor, /, *, rng: Generator) -> Tensor:
        seen.append(x[:, 0])
        return cross_entropy(net, x, y, rng=rng)

    data = points(n)
    Recipe(plain, "plain", epochs=1, batch=16, batch_loss=loss)(data, rng=generator(0))
    assert [len(part) for part in seen] == expected
    assert torch.equal(torch.cat(seen).sort().values, data.x[:, 0].sort().values)


def test_a_net_with_batch_normalisation_survives_a_last_row() -> None:
    """Batch normalisation without spatial extent refuses a batch of one; 33 = 16 + 17."""

    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))

    Recipe(make, "bn", epochs=1, batch=16)(points(33), rng=generator(0))


def test_labels_stay_with_their_images() -> None:
    def loss(net: nn.Module, x: Tensor, y: Tensor, /, *, rng: Generator) -> Tensor:
        assert torch.equal(x[:, 0, ::2, 0].argmax(1), y)
        return cross_entropy(net, x, y, rng=rng)

    replace(SMALL, batch_loss=loss)(images(), rng=generator(0))


def test_images_with_several_channels_arrive_unchanged() -> None:
    x = torch.rand(20, 3, 5, 7, generator=generator(0))
    seen = []

    def loss(net: nn.Module, x: Tensor, y: Tensor, /, *, rng: Generator) -> Tensor:
        seen.append(x)
        return cross_entropy(net, x, y, rng=rng)

    def make() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(30, 2))

    Recipe(make, "rgb", epochs=1, batch=20, batch_loss=loss)(
        Samples(x, torch.arange(20) % 2, 2), rng=generator(0)
    )
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    key = x.flatten(1)[:, 0].argsort()
    assert torch.equal(seen[0][seen[0][:, 0, 0, 0].argsort()], x[key])


def test_the_net_comes_back_ready_for_use() -> None:
    model = SMALL(images(), rng=generator(1))
    assert not any(module.training for module in model.net.modules())
    assert all(p.is_contiguous() and p.requires_grad and p.grad is None for p in model.net.parameters())
    assert (model.classes, model.shape) == (3, (1, 6, 6))


def test_frozen_weights_stay() -> None:
    def make() -> nn.Module:
        made = plain()
        made[1].weight.data.fill_(0.5)
        made[1].weight.requires_grad_(False)
        return made

    model = Recipe(make, "frozen", epochs=1)(points(), rng=generator(0))
    assert bool((model.net[1].weight == 0.5).all())
    assert not model.net[1].weight.requires_grad


def test_data_are_left_alone() -> None:
    data = images()
    x, y = data.x.clone(), data.y.clone()
    SMALL(data, rng=generator(0))
    assert torch.equal(data.x, x)
    assert torch.equal(data.y, y)
    assert data.x.grad is None


def test_ticks_report_every_25_steps_and_the_last() -> None:
    told: list[tuple[int, int]] = []
    recipe = Recipe(plain, "plain", epochs=3, batch=2)
    recipe(points(40), rng=generator(0), tick=lambda step, total, values: told.append((step, total)))
    assert told == [(25, 60), (50, 60), (60, 60)]
    assert recipe.steps(40) == 60


def test_the_learning_rate_rises_to_one_and_falls_to_zero() -> None:
    rates = [one_cycle(step / 1000) for step in range(1000)]
    peak = rates.index(max(rates))
    assert rates[0] == pytest.approx(1 / 25)
    assert peak == 300
    assert max(rates) == pytest.approx(1)
    assert rates[-1] < 1e-4
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


def test_weight_decay_shrinks_weights_that_have_no_gradient() -> None:
    """Decoupled decay multiplies a weight by prod(1 - lr_t * decay) where its gradient is zero."""
    x = torch.zeros(8, 4)  # the gradient of the weight is x times something

    def make() -> nn.Module:
        made = plain()
        made[1].weight.data.fill_(1.0)
        return made

    recipe = Recipe(make, "decay", epochs=1, batch=2, lr=0.1, weight_decay=0.5)
    model = recipe(Samples(x, torch.arange(8) % 2, 2), rng=generator(0))
    expected = 1.0
    for step in range(4):
        expected *= 1 - 0.1 * one_cycle(step / 4) * 0.5
    torch.testing.assert_close(model.net[1].weight.detach(), torch.full((2, 4), expected))


def test_data_of_one_class_can_be_learnt() -> None:
    data = Samples(torch.rand(20, 4, generator=generator(0)), torch.ones(20, dtype=torch.int64), 2)
    model = Recipe(plain, "plain", epochs=20, batch=4, lr=0.1)(data, rng=generator(0))
    assert bool((model.predict(data.x).argmax(1) == 1).all())


@pytest.mark.parametrize("n", [0, 1])
def test_too_little_data_is_refused(n: int) -> None:
    with pytest.raises(UsageError, match=f"at least two rows. Got {n}"):
        Recipe(plain, "plain")(points()[slice(0, n)], rng=generator(0))


def test_a_net_with_too_few_classes_is_refused() -> None:
    with pytest.raises(UsageError, match=r"K >= 3 classes. Got \(1, 2\)"):
        Recipe(partial(_linear, 36, 2), "narrow")(images(), rng=generator(0))


def test_a_net_with_more_classes_keeps_them() -> None:
    assert Recipe(partial(_linear, 36, 7), "wide")(images(), rng=generator(0)).classes == 7


def _linear(inputs: int, classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, classes))


def test_a_net_without_weights_is_refused() -> None:
    def make() -> nn.Module:
        return nn.Flatten()

    data = points()
    with pytest.raises(UsageError, match="no weights to train"):
        Recipe(make, "none")(Samples(data.x, data.y, 2), rng=generator(0))


def test_divergence_is_an_error() -> None:
    def infinite(net: nn.Module, x: Tensor, y: Tensor, /, *, rng: Generator) -> Tensor:
        return cross_entropy(net, x, y, rng=rng) * float("inf")

    with pytest.raises(UsageError, match="diverged"):
        Recipe(plain, "plain", batch_loss=infinite)(points(), rng=generator(0))


@pytest.mark.parametrize("setting", [{"epochs": 0}, {"batch": 1}, {"lr": 0.0}, {"weight_decay": -1.0}])
def test_settings_out_of_range_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="A recipe needs"):
        Recipe(plain, "plain", **setting)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Weighted:
    """A batch loss with a setting."""

    weight: float

    def __call__(self, net: nn.Module, x: Tensor, y: Tensor, /, *, rng: Generator) -> Tensor:
        return self.weight * cross_entropy(net, x, y, rng=rng)


def test_digests_tell_recipes_apart() -> None:
    recipe = Recipe(plain, "plain")
    others = [
        replace(recipe, name="other"), replace(recipe, epochs=6), replace(recipe, batch=65), replace(recipe, lr=1e-3),
        replace(recipe, weight_decay=0.1), replace(recipe, batch_loss=Weighted(1.0)),
        replace(recipe, batch_loss=Weighted(2.0)), replace(recipe, batch_loss=partial(cross_entropy, rng=None)),
    ]  # fmt: skip
    assert len({r.digest() for r in (recipe, *others)}) == len(others) + 1
    assert recipe.digest() == Recipe(plain, "plain").digest()
    assert (
        replace(recipe, batch_loss=Weighted(1.0)).digest()
        == replace(recipe, batch_loss=Weighted(1.0)).digest()
    )
    assert len(recipe.digest()) == 64
