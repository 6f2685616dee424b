"""Drawn shapes: true to their attributes, and differentiable in them."""

import math
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from casemate.builtin.shapes import NAMES, Attributes, render, sample, shapes

FREE = [f.name for f in fields(Attributes) if f.name != "label"]


def one(label: int, **changes: Tensor) -> Attributes:
    """A white shape on black, without stripes, in the middle."""
    plain = Attributes(
        label=torch.tensor([label]),
        centre=torch.zeros(1, 2),
        scale=torch.tensor([0.8]),
        angle=torch.zeros(1),
        colour=torch.ones(1, 3),
        background=torch.zeros(1, 3),
        contrast=torch.zeros(1),
        stripes=torch.ones(1),
    )
    return replace(plain, **changes)


def area(a: Attributes) -> float:
    """Share of the image that is painted, in units of its square of four half widths squared."""
    return float(render(a)[0, 0].mean()) * 4


def test_sampling_is_balanced_and_follows_its_seed() -> None:
    first, again, other = sample(60, 1), sample(60, 1), sample(60, 2)
    assert first.label.bincount().tolist() == [10] * len(NAMES)
    for name in FREE:
        assert torch.equal(getattr(first, name), getattr(again, name))
        assert not torch.equal(getattr(first, name), getattr(other, name))


def test_images_are_in_the_box_and_labelled_by_their_shape() -> None:
    drawn = shapes(600, 3)
    assert drawn.x.min() >= 0
    assert drawn.x.max() <= 1
    assert torch.equal(drawn.y, sample(600, 3).label)
    assert len(shapes(0, 0)) == 0


def test_a_shape_differs_from_its_background() -> None:
    a = sample(500, 4)
    assert ((a.colour - a.background).abs().amax(1) >= 0.4 - 1e-6).all()


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("disc", math.pi),
        ("square", 2.0),  # half side 1 / sqrt(2)
        ("triangle", 3 * math.sqrt(3) / 4),  # equilateral, circumradius 1
        ("cross", 2 * 2 * 0.6 - 0.6**2),
        ("ring", math.pi * (1 - 0.36)),
        ("star", 10 * math.sin(math.pi / 5) * math.cos(2 * math.pi / 5) / math.cos(math.pi / 5) / 2),
    ],
)
def test_a_shape_covers_the_area_of_its_geometry(name: str, unit: float) -> None:
    """Areas at radius 1, times 0.8^2.

    Cross: two bars of 2 x 0.6 share a square of 0.6 x 0.6. Star: ten triangles
    with sides 1 and r = cos(72 deg) / cos(36 deg) and the angle of 36 deg between them.
    """
    assert area(one(NAMES.index(name))) == pytest.approx(unit * 0.64, rel=0.02)


def test_a_shape_lies_where_it_should() -> None:
    """The centre of mass of a disc is its centre: x to the right, y upwards."""
    picture = render(one(0, centre=torch.tensor([[0.25, -0.375]]), scale=torch.tensor([0.4])))[0, 0]
    places = (torch.arange(32) + 0.5) / 16 - 1
    total = picture.sum()
    assert float((picture.sum(0) * places).sum() / total) == pytest.approx(0.25, abs=1e-3)
    assert float((picture.sum(1) * -places).sum() / total) == pytest.approx(-0.375, abs=1e-3)


def test_a_quarter_turn_turns_the_picture_to_the_left() -> None:
    still, turned = (render(one(2, angle=torch.tensor([t])))[0] for t in (0.0, math.pi / 2))
    torch.testing.assert_close(turned, still.rot90(1, (1, 2)), atol=1e-4, rtol=0)


def test_colours_and_stripes_are_painted_as_told() -> None:
    """In the middle of a disc is its colour, darkened by half the contrast as sin(0) = 0; a corner is background."""
    colour, background = torch.tensor([[0.9, 0.5, 0.1]]), torch.tensor([[0.2, 0.4, 0.6]])
    picture = render(one(0, colour=colour, background=background, contrast=torch.tensor([0.5])))[0]
    torch.testing.assert_close(picture[:, 0, 0], background[0])
    middle = picture[:, 15:17, 15:17].mean((1, 2))
    torch.testing.assert_close(middle, colour[0] * 0.75, atol=2e-2, rtol=0)


@pytest.mark.parametrize("label", range(len(NAMES)), ids=NAMES)
def test_gradients_reach_every_attribute_and_agree_with_differences(label: int) -> None:
    """Central differences with h = 1e-6 in float64, to the loss sum(weights * image)."""
    rows = sample(60, 5)
    a = rows[(rows.label == label).nonzero().flatten()[:1]]
    a = Attributes(a.label, *(getattr(a, name).double() for name in FREE))
    weights = torch.rand(3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for name in FREE:
        value = getattr(a, name).clone().requires_grad_()
        (grad,) = torch.autograd.grad((render(replace(a, **{name: value}))[0] * weights).sum(), value)
        step = 1e-6 * torch.ones_like(value)
        up, down = (
            float((render(replace(a, **{name: value.detach() + s}))[0] * weights).sum())
            for s in (step, -step)
        )
        assert float(grad.abs().max()) > 0, name
        assert float(grad.sum()) == pytest.approx((up - down) / 2e-6, rel=1e-4, abs=1e-4), name


def test_gradients_are_finite_where_a_pixel_is_the_centre() -> None:
    centre = torch.full((1, 2), 1 / 32).requires_grad_()
    for label in range(len(NAMES)):
        (grad,) = torch.autograd.grad(render(one(label, centre=centre)).sum(), centre)
        assert grad.isfinite().all()
