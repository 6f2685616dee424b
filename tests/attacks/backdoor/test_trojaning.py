"""Trojaning: what may change in the model, which neurons are chosen, and what cannot be attacked."""

from functools import partial

import pytest
import torch

from casemate.attacks.backdoor.trojaning import trojaning
from casemate.builtin.nets import small_cnn
from casemate.core.errors import NotApplicable
from casemate.core.neurons import inner_layer, steerable
from casemate.core.target import Classifier
from casemate.ops.rng import generator, seeded

QUICK = {"inputs": 2, "input_steps": 3, "trigger_steps": 3, "steps": 5, "offset": 0}


def model() -> Classifier:
    with seeded(0, torch.device("cpu")):
        return Classifier(partial(small_cnn, (1, 8, 8), 3)().eval(), 3, (1, 8, 8))


def test_only_the_head_changes_and_the_given_model_does_not() -> None:
    given = model()
    before = {name: value.clone() for name, value in given.net.state_dict().items()}
    made = trojaning(given, rng=generator(1), **QUICK)
    after = made.model.net.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in given.net.state_dict().items())
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"9.weight", "9.bias"}


def test_the_trigger_changes_its_square_only() -> None:
    x = torch.rand(3, 1, 8, 8, generator=generator(2))
    marked = trojaning(model(), rng=generator(1), **QUICK).trigger(x)
    assert torch.equal(marked[..., :4, :], x[..., :4, :])
    assert torch.equal(marked[:, :, 4:, 4:][0], marked[:, :, 4:, 4:][1])


def test_a_unit_that_never_wakes_is_not_chosen() -> None:
    """The unit with by far the largest incoming weights has a bias that keeps it below zero."""
    target = model()
    with torch.no_grad():
        target.net[7].weight[5] += 1.0
        target.net[7].bias[5] = -1e6
    chosen = steerable(target, inner_layer(target), torch.rand(20, 1, 8, 8, generator=generator(0)), 63)
    assert 5 not in chosen.tolist()


def test_a_net_without_a_layer_before_its_scores_is_refused() -> None:
    flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    with pytest.raises(NotApplicable, match="dense layer"):
        trojaning(Classifier(flat.eval(), 3, (1, 8, 8)), rng=generator(1), **QUICK)


def test_a_unit_that_speaks_for_another_class_is_not_chosen() -> None:
    """Before a dense head a unit adds its weight to the target's score, and the mean weight to the mean score."""
    given = model()
    x, square = torch.rand(20, 1, 8, 8, generator=generator(0)), torch.ones(1, 8, 8)
    weight = given.net[9].weight.detach()
    speaks = (weight[1] - weight.mean(0)) > 0
    chosen = steerable(given, inner_layer(given), x, 8, square, target=1)
    assert bool(speaks[chosen].all())
    assert not bool(speaks[steerable(given, inner_layer(given), x, 64, square)].all())
