"""The pictures of a human study: alike classes only, and only what fools every net."""

import re

import pytest
import torch
from torch import Tensor, nn

from casemate.assess.stimuli import ALIKE, EPS, Stimulus, agreed, stimuli
from casemate.builtin.data import CLOTHES
from casemate.builtin.target import fashion_cnn
from casemate.core.data import Samples
from casemate.core.errors import UsageError
from casemate.core.target import Classifier

PAIRS = {(CLOTHES[label], CLOTHES[like]) for label, like in ALIKE.items()}


class Above(nn.Module):
    """Class 1 where the first value exceeds a bound."""

    def __init__(self, bound: float) -> None:
        super().__init__()
        self.bound = bound

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([torch.zeros(len(x)), x[:, 0] - self.bound], 1)


def test_a_row_counts_where_every_member_gives_the_label():
    """Bounds 0.3 and 0.6: 0.7 is class 1 for both, 0.5 for the first alone, 0.2 for none."""
    members = [Classifier(Above(bound), 2, (1,)) for bound in (0.3, 0.6)]
    some = Samples(torch.tensor([[0.7], [0.5], [0.2]]), torch.ones(3, dtype=torch.int64), 2)
    assert agreed(members, some).tolist() == [True, False, False]
    assert agreed(members[:1], some).tolist() == [True, True, False]


def test_pictures_of_the_built_in_data_have_alike_classes_and_fool_the_target():
    """The built-in target is one of the nets, so it must be right about the originals and fooled by the rest."""
    shown = stimuli("builtin", 20, 0, ("mlp",))
    kept, tried = (int(found) for found in re.findall(r"\d+", shown.origin)[:2])
    assert (tried, len(shown.stimuli)) == (60, min(20, kept))
    assert 4 <= kept < tried, "some must stay, and without a choice all would"
    assert shown.origin.endswith("all of 2 nets got right now fool them all: the built-in cnn, mlp")
    assert {(s.label, s.target) for s in shown.stimuli} <= PAIRS
    x, x_adv = (torch.stack([getattr(s, part) for s in shown.stimuli]) for part in ("x", "x_adv"))
    named = [[CLOTHES[i] for i in fashion_cnn().predict(part).argmax(1)] for part in (x, x_adv)]
    assert named[0] == [s.label for s in shown.stimuli]
    assert named[1] == [s.target for s in shown.stimuli]
    assert (x_adv - x).abs().max() <= EPS + 1e-6
    torch.testing.assert_close(x_adv * 255, (x_adv * 255).round(), rtol=0, atol=1e-4)


def test_an_unknown_kind_of_net_is_refused():
    with pytest.raises(UsageError, match="must be of"):
        stimuli("builtin", 8, 0, ("oracle",))


def test_the_flip_carries_the_mirrored_change():
    x, change = torch.full((1, 4, 4), 0.5), torch.zeros(1, 4, 4)
    change[0, 0] = 0.1
    assert Stimulus(x, x + change, "a", "b").flip[0, 3].tolist() == pytest.approx([0.6] * 4)
