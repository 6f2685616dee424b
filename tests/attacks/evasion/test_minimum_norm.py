"""Minimum-norm attacks against the closed form of the affine two-class and many-class model.

For logits z = W x + b the boundary between y and t is a plane: an example of class t is as near as
|z_y - z_t| divided by the dual size of W_t - W_y: l2 for l2, l1 for linf, linf for l1. The nearest
example of any class is the least of these over t, as long as no edge of the box is in the way.
"""

import pytest
import torch

from casemate.core.registry import find
from casemate.core.target import Classifier, GradientOracle
from casemate.core.threat import Become, Lp, Misclassify
from casemate.ops.norms import dual_size, size
from casemate.ops.rng import rows

VALUES, N = 20, 12
# steps along a loss go to the likeliest class, which need not be the nearest: two classes leave no choice
CLASSES = {"ddn": 2, "fmn": 2, "carlini_wagner": 2, "deepfool": 4, "fab": 4, "fab_t": 4}
RUNS = {
    "ddn": {"steps": 200}, "fmn": {"steps": 300}, "deepfool": {"rivals": None},
    "carlini_wagner": {"steps": 150, "searches": 7}, "fab": {"steps": 40}, "fab_t": {"steps": 40, "targets": 3},
}  # fmt: skip
CASES = [
    (name, norm) for name in RUNS for norm in find(f"evasion.{name}").norms
    if norm != "l0" and not (name == "fmn" and norm == "l1")
]  # fmt: skip


@pytest.fixture
def affine(name):
    """Affine model whose boundaries lie well inside the box around the grey inputs."""
    rng = torch.Generator().manual_seed(3)
    net = torch.nn.Linear(VALUES, CLASSES[name]).double()
    with torch.no_grad():
        net.weight.copy_(torch.randn(CLASSES[name], VALUES, generator=rng).double())
        net.bias.copy_(-net.weight.sum(1) / 2)
        net.bias[0] += 1.0
    return Classifier(net, CLASSES[name], (VALUES,))


@pytest.fixture
def grey():
    rng = torch.Generator().manual_seed(4)
    return 0.5 + 0.05 * torch.randn(N, VALUES, generator=rng).double().clamp(-2, 2)


def nearest(target, x, y, norm):
    weight = target.net.weight.detach()
    logits = target.predict(x)
    gaps = logits.gather(1, y[:, None]) - logits
    slopes = weight[None] - weight[y][:, None]
    dual = torch.stack([dual_size(row, norm) for row in slopes])
    distance = gaps / dual
    distance[torch.arange(len(y)), y] = float("inf")
    return distance.amin(1)


def run(name, target, x, goal, budget, **changes):
    entry = find(f"evasion.{name}")
    oracle = GradientOracle(target, len(x))
    params = entry.validate({**RUNS[name], **changes})
    return entry.run(oracle, x, goal, budget, rng=rows(0, len(x)), **params), oracle.ledger


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_the_nearest_example_of_an_affine_model_is_found(name, norm, affine, grey):
    """No attack can be nearer than the closed form; 5% farther is the most that is allowed."""
    y = affine.predict(grey).argmax(1)
    x_adv, _ = run(name, affine, grey, Misclassify(y), Lp(norm=norm, eps=float("inf")))
    assert bool((affine.predict(x_adv).argmax(1) != y).all())
    ratio = size(x_adv - grey, norm) / nearest(affine, grey, y, norm)
    assert float(ratio.min()) >= 1 - 1e-6
    assert float(ratio.max()) <= 1.05


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_a_finite_radius_decides_each_row_as_the_closed_form_does(name, norm, affine, grey):
    """With the median distance as radius half of the rows have an example; the others come back as they were."""
    y = affine.predict(grey).argmax(1)
    distance = nearest(affine, grey, y, norm)
    eps = float(distance.median()) * 1.06
    x_adv, _ = run(name, affine, grey, Misclassify(y), Lp(norm=norm, eps=eps))
    assert float(size(x_adv - grey, norm).max()) <= eps * (1 + 1e-6)
    fooled = affine.predict(x_adv).argmax(1) != y
    assert bool(fooled[distance * 1.05 < eps].all())
    assert not bool(fooled[distance > eps].any())
    assert torch.equal(x_adv[distance > eps], grey[distance > eps])


@pytest.mark.parametrize("name", [n for n in RUNS if n != "deepfool"])
def test_G5_a_target_class_is_reached_as_near_as_its_own_boundary(name, affine, grey):
    y = affine.predict(grey).argmax(1)
    t = (y + 1) % CLASSES[name]
    x_adv, _ = run(name, affine, grey, Become(t), Lp(norm="l2", eps=float("inf")))
    assert torch.equal(affine.predict(x_adv).argmax(1), t)


@pytest.mark.parametrize("name", list(RUNS))
def test_S6_more_steps_are_never_farther(name, affine, grey):
    y = affine.predict(grey).argmax(1)
    budget = Lp(norm="l2", eps=float("inf"))
    if name in ("deepfool", "carlini_wagner"):
        pytest.skip("its schedule of steps is another one for every number of them")
    few, many = (run(name, affine, grey, Misclassify(y), budget, steps=s)[0] for s in (10, 80))
    found = (few != grey).any(1)
    assert bool((size(many - grey, "l2")[found] <= size(few - grey, "l2")[found] * 1.02).all())


def test_N6_carlini_wagner_moves_pixels_that_are_exactly_black_or_white():
    """x is a corner of the box and class 1 lies towards the inside: 0.25 of the way along each axis."""
    weight = torch.tensor([[0.0, 0.0], [-1.0, 1.0]])
    net = torch.nn.Linear(2, 2)
    with torch.no_grad():
        net.weight.copy_(weight)
        net.bias.copy_(torch.tensor([0.0, 0.5]))
    target, x = Classifier(net, 2, (2,)), torch.tensor([[1.0, 0.0]])
    x_adv, _ = run("carlini_wagner", target, x, Misclassify(torch.tensor([0])), Lp(norm="l2", eps=2.0))
    assert int(target.predict(x_adv).argmax()) == 1


@pytest.mark.parametrize("name", list(RUNS))
def test_a_constant_model_leaves_x_alone(name, affine, grey):
    with torch.no_grad():
        affine.net.weight.zero_()
        affine.net.bias.copy_(-torch.arange(CLASSES[name]))
    y = torch.zeros(N, dtype=torch.long)
    x_adv, _ = run(name, affine, grey, Misclassify(y), Lp(norm="l2", eps=float("inf")))
    assert torch.equal(x_adv, grey)
