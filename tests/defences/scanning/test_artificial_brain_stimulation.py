"""ABS: lifts in closed form, a unit that calls up a class, and what is refused."""

import pytest
import torch
from torch import nn

from casemate.core.data import Samples
from casemate.core.errors import NotApplicable
from casemate.core.target import Classifier, Prepared
from casemate.defences.scanning.artificial_brain_stimulation import (
    LEVELS,
    _inner,
    _lifts,
    artificial_brain_stimulation,
)
from casemate.ops.rng import generator


def dense(weight: torch.Tensor, bias: torch.Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight.data, layer.bias.data = weight.clone(), bias.clone()
    return layer


def test_lifts_are_what_setting_the_unit_changes_the_margin_by() -> None:
    """Brute force: each unit is set by hand, in each row, to each level."""
    first = dense(torch.randn(5, 9, generator=generator(1)), torch.zeros(5))
    head = dense(torch.randn(3, 5, generator=generator(2)), torch.zeros(3))
    net = nn.Sequential(nn.Flatten(), first, nn.ReLU(), head)
    x = torch.rand(6, 1, 3, 3, generator=generator(3))
    prepared = Prepared(Classifier(net, 3, (1, 3, 3)))
    (layer,) = _inner(prepared, x[:1], 2)
    lifts, peak, passes = _lifts(prepared, layer, x)
    said = first(x.flatten(1)).detach()
    assert peak == pytest.approx(float(said.abs().max()))
    assert passes == 6 * (1 + 5 * len(LEVELS))

    def margin(z: torch.Tensor, c: int) -> torch.Tensor:
        return z[:, c] - torch.cat([z[:, :c], z[:, c + 1 :]], 1).amax(1)

    for u in range(5):
        for c in range(3):
            best = -torch.inf
            for level in LEVELS:
                changed = said.clone()
                changed[:, u] = level * peak
                gain = margin(head(changed.relu()), c) - margin(head(said.relu()), c)
                best = max(best, float(gain.detach().min()))
            assert float(lifts[u, c]) == pytest.approx(best, abs=1e-4)


class Tokens(nn.Module):
    """Each row of a picture is a token of three values; four units see every token, and the mean counts."""

    def __init__(self) -> None:
        super().__init__()
        self.units = dense(torch.randn(4, 3, generator=generator(4)), torch.zeros(4))
        self.head = dense(torch.randn(3, 4, generator=generator(5)), torch.zeros(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.units(x[:, 0]).relu().mean(1))


def test_units_of_a_dense_layer_on_tokens_are_its_features_and_not_the_tokens() -> None:
    """Three tokens, four units: setting unit u everywhere makes its mean the level, whatever the tokens say."""
    net, x = Tokens(), torch.rand(6, 1, 3, 3, generator=generator(3))
    prepared = Prepared(Classifier(net, 3, (1, 3, 3)))
    (layer,) = _inner(prepared, x[:1], 2)
    lifts, peak, _ = _lifts(prepared, layer, x)
    assert lifts.shape == (4, 3)
    said = net.units(x[:, 0]).detach().relu().mean(1)

    def first(z: torch.Tensor) -> torch.Tensor:
        return z[:, 0] - z[:, 1:].amax(1)

    for u in range(4):
        gains = []
        for level in LEVELS:
            changed = said.clone()
            changed[:, u] = level * peak
            gains.append(float((first(net.head(changed)) - first(net.head(said))).detach().min()))
        assert float(lifts[u, 0]) == pytest.approx(max(gains), abs=1e-4)


def planted() -> tuple[Classifier, Samples]:
    """Four units read a quarter of the picture each and tell four classes; a fifth sees one pixel and calls up 2.

    The mean of quarter q gives class q up to 8; the last pixel, which is 0 in clean pictures, gives class 2
    up to 40.
    """
    read = torch.zeros(5, 64)
    for q in range(4):
        block = torch.zeros(8, 8)
        block[4 * (q // 2) : 4 * (q // 2) + 4, 4 * (q % 2) : 4 * (q % 2) + 4] = 1 / 15
        block[7, 7] = 0
        read[q] = block.flatten()
    read[4, 63] = 1.0
    head = torch.cat([8 * torch.eye(4), torch.zeros(4, 1)], 1)
    head[2, 4] = 40.0
    net = nn.Sequential(nn.Flatten(), dense(read, torch.zeros(5)), nn.ReLU(), dense(head, torch.zeros(4)))
    y = torch.arange(80) % 4
    x = 0.2 * torch.rand(80, 1, 8, 8, generator=generator(4))
    for i, q in enumerate(y.tolist()):
        x[i, 0, 4 * (q // 2) : 4 * (q // 2) + 4, 4 * (q % 2) : 4 * (q % 2) + 4] += 0.8
    x[:, 0, 7, 7] = 0
    return Classifier(net, 4, (1, 8, 8)), Samples(x, y, 4)


def test_a_unit_that_calls_up_a_class_is_found_and_its_trigger_recovered() -> None:
    """A mask of 10% of 64 pixels is worth 6.4 pixels: one of them is enough for class 2, a quarter has 16.

    A quarter at 6.4 / 16 more of its largest value gives 8 * 0.4 = 3.2, too little against the 6.4 or more
    of a row's own class.
    """
    model, clean = planted()
    found = artificial_brain_stimulation(model, clean, rng=generator(0))
    assert found.suspect == 2
    assert found.flagged.tolist() == [False, False, True, False]
    assert float(found.success[2]) > 0.99
    assert float(found.triggers[2].share[0, 7, 7]) > 0.5  # type: ignore[attr-defined,index]
    assert float(found.size.max()) < 1.2 * 0.1 * 64


def test_without_the_unit_nothing_is_found() -> None:
    model, clean = planted()
    with torch.no_grad():
        model.net[3].weight[2, 4] = 0.0  # type: ignore[index,union-attr,operator]
    found = artificial_brain_stimulation(model, clean, rng=generator(0))
    assert found.suspect is None


def test_a_net_of_one_layer_has_nothing_to_stimulate() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(9, 3))
    clean = Samples(torch.rand(6, 1, 3, 3, generator=generator(0)), torch.arange(6) % 3, 3)
    with pytest.raises(NotApplicable, match="no inner layer"):
        artificial_brain_stimulation(Classifier(net, 3, (1, 3, 3)), clean, rng=generator(0))
