"""Pasting: exactly the allowed pixels change, everything lies inside, and gradients flow."""

import torch

from casemate.core.pasting import Pasting, Patch


def pasted(area=0.1, rotation=45.0, smallest=0.5, n=200, size=(17, 23)):
    budget = Pasting(area=area, rotation=rotation, smallest=smallest)
    places = budget.draw(n, torch.Generator().manual_seed(0))
    x = torch.zeros(n, 2, *size)
    return Patch(torch.ones(2, 6, 6), budget).paste(x, places), budget, places


def test_it_covers_as_many_pixels_as_the_size_drawn_allows():
    """floor(pixels * (smallest + (1 - smallest) size)^2), every one of them."""
    x_adv, budget, places = pasted()
    pixels = budget.pixels(17, 23)
    expected = (pixels * (0.5 + 0.5 * places[:, 3]) ** 2 + 1e-4).floor()
    assert torch.equal(x_adv[:, 0].flatten(1).sum(1), expected)
    assert pixels == 39


def test_an_upright_patch_in_the_middle_is_a_square():
    """16 of 64 pixels of an 8 x 8 picture: rows and columns 2 to 5."""
    x = torch.zeros(1, 1, 8, 8)
    found = Patch(torch.ones(1, 4, 4), Pasting(area=0.25))(x)
    expected = torch.zeros(1, 1, 8, 8)
    expected[:, :, 2:6, 2:6] = 1
    assert torch.equal(found, expected)


def test_an_upright_pattern_of_as_many_pixels_is_shown_as_it_is():
    pattern = torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(1))
    found = Patch(pattern, Pasting(area=0.25))(torch.zeros(1, 1, 8, 8))
    torch.testing.assert_close(found[0, :, 2:6, 2:6], pattern, rtol=0, atol=1e-6)


def test_gradients_flow_to_the_pattern():
    pattern = torch.full((1, 4, 4), 0.5, requires_grad=True)
    Patch(pattern, Pasting(area=0.25))(torch.zeros(1, 1, 8, 8)).sum().backward()
    torch.testing.assert_close(pattern.grad, torch.ones(1, 4, 4), rtol=0, atol=1e-5)
