"""The channel's draws and what they do to pictures."""

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from casemate.builtin.data import shapes
from casemate.core.budget import Budget
from casemate.core.channel import Channel
from casemate.core.errors import NotApplicable, UsageError
from casemate.core.physical import Print, Sticker
from casemate.core.threat import Lp
from casemate.ops.rng import rows

# a channel that does nothing but round to 8 bits and write the best JPEG
NEUTRAL = Channel(
    black=(0, 0), white=(1, 1), dot_gain=(1, 1), angle=(0, 0), zoom=(1, 1), shift=(0, 0), tilt=(0, 0),
    blur=(0, 0), gain=(1, 1), cast=(0, 0), offset=(0, 0), gamma=(1, 1), noise=(0, 0), jpeg=(100, 100),
)  # fmt: skip


def pictures(n: int = 4, channels: int = 1) -> torch.Tensor:
    return torch.rand(n, channels, 12, 12, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("way", ["apply", "develop"])
def test_a_channel_that_does_nothing_returns_the_file(channels, way):
    """Up to a level or two: half a level of rounding, and what JPEG rounds at its best quality."""
    x = pictures(channels=channels)
    seen = getattr(NEUTRAL, way)(x, NEUTRAL.sample(3, rows(0, 4), x.shape[1:]))
    assert seen.shape == (4, 3, *x.shape[1:])
    # colour differences have half the resolution, so colours of single pixels are mixed
    grey = seen if channels == 1 else (seen * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(2)
    file = x if channels == 1 else (x * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1)
    limit = 2.5 / 255 if channels == 1 else 0.05
    assert (grey - file[:, None]).abs().mean() < limit


def test_the_same_seed_draws_the_same_ways_for_each_row_alone():
    channel = Channel()
    whole = channel.sample(5, rows(3, 4), (3, 8, 8))
    part = channel.sample(5, rows(3, 4)[torch.tensor([2])], (3, 8, 8))
    for name, value in vars(whole).items():
        assert torch.equal(getattr(part, name)[0], value[2]), name
    other = channel.sample(5, rows(4, 4), (3, 8, 8))
    assert not torch.equal(other.blur, whole.blur)


def test_draws_fill_their_ranges_and_do_not_leave_them():
    """The least of 2,000 uniform draws is within 1% of the range but for a chance of 0.99^2000 < 2e-9."""
    channel = Channel()
    ways = channel.sample(500, rows(0, 4), (1, 2, 2))
    for name in ("black", "white", "dot_gain", "blur", "offset", "gamma"):
        low, high = getattr(channel, name)
        drawn, slack = getattr(ways, name), 0.01 * (high - low)
        assert low - 1e-6 <= drawn.min() < low + slack, name
        assert high - slack < drawn.max() <= high + 1e-6, name
    assert set(ways.quality.flatten().tolist()) == set(map(float, range(60, 96)))
    scale = ways.noise.flatten(2).std(2)
    assert scale.max() < 0.09


def test_each_draw_is_applied_to_its_own_picture():
    channel, x = Channel(), pictures(3, 3).double()
    ways = channel.sample(4, rows(0, 3), x.shape[1:])
    whole = channel.apply(x, ways)
    for i in range(3):
        torch.testing.assert_close(channel.apply(x[i : i + 1], ways[i : i + 1])[0], whole[i])


@pytest.mark.parametrize("channels", [1, 3])
def test_what_attacks_see_is_close_to_what_the_judge_sees(channels):
    channel, (_, test) = Channel(), shapes(train=1, test=6)
    x = test.x if channels == 3 else test.x[:, :1]
    ways = channel.sample(10, rows(0, 6), x.shape[1:])
    seen, judged = channel.apply(x, ways), channel.develop(x, ways)
    assert (seen - judged).abs().mean() < 1.5 / 255
    assert ((judged * 255).round() / 255 - judged).abs().max() < 1e-6


def test_black_pixels_have_a_gradient():
    """A clamp before the printer's curve once hid from attacks how to brighten what is black."""
    channel = Channel()
    x = torch.zeros(2, 1, 12, 12, requires_grad=True)
    channel.apply(x, channel.sample(20, rows(0, 2), x.shape[1:])).sum().backward()
    assert (x.grad > 0).all()


def test_light_and_printer_do_what_the_sums_say():
    """A flat picture of 0.5 between ink 0.1 and paper 0.9 is 0.5; times 1.2 plus 0.1 it is 0.7."""
    plain = NEUTRAL.model_dump() | {
        "black": (0.1, 0.1),
        "white": (0.9, 0.9),
        "gain": (1.2, 1.2),
        "offset": (0.1, 0.1),
    }
    channel = Channel(**plain)
    x = torch.full((1, 1, 8, 8), 0.5)
    seen = channel.develop(x, channel.sample(1, rows(0, 1), (1, 8, 8)))
    assert (seen - 0.7).abs().max() < 2.5 / 255


def test_inputs_that_are_no_pictures_are_not_printed():
    for shape in ((7,), (2, 5, 6), (4, 8, 8)):
        with pytest.raises(NotApplicable, match="only grey and colour pictures"):
            Channel().sample(1, rows(0, 1), shape)


def test_ranges_are_checked():
    for wrong in (
        {"blur": (2, 1)},
        {"jpeg": (0, 50)},
        {"black": (-0.1, 0)},
        {"zoom": (0, 1)},
        {"fog": (0, 1)},
    ):
        with pytest.raises((ValidationError, UsageError)):
            Channel(**wrong)


def test_budgets_are_read_back_as_themselves():
    adapter = TypeAdapter(Budget)
    for budget in (
        Lp(norm="linf", eps=0.1), Print(eps="8/255"), Print(norm="l2", eps=0.1, wish="become"),
        Print(eps=0.1, channel=Channel(blur=(0, 3))), Sticker(area=0.1), Sticker(area=0.2, wish="become"),
    ):  # fmt: skip
        back = adapter.validate_python(budget.model_dump(mode="json"))
        assert type(back) is type(budget)
        assert back == budget
        assert adapter.validate_json(budget.model_dump_json()) == budget


def test_budgets_are_checked_and_written_out():
    assert str(Print(eps="8/255")) == "linf 8/255, then printed and photographed"
    assert str(Sticker(area=0.1)) == "stickers on 10% of the pixels, then photographed"
    assert Sticker(area=0.29).pixels(10, 10) == 29
    for wrong in (2.0, float("inf"), -0.1):
        with pytest.raises((ValidationError, UsageError)):
            Print(eps=wrong)
    for wrong in (0.0, 1.5):
        with pytest.raises(ValidationError):
            Sticker(area=wrong)
