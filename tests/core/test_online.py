"""Online victims start from the weights of a model, in any process, and the model stays as it is."""

import pickle
from functools import partial

import pytest
import torch

from casemate.builtin.nets import small_mlp
from casemate.core.data import Samples
from casemate.core.errors import UsageError
from casemate.core.online import online
from casemate.core.recipe import Recipe
from casemate.core.target import Classifier
from casemate.ops.rng import generator


def test_a_victim_starts_where_the_model_stands() -> None:
    data = Samples(torch.rand(32, 5, generator=generator(0)), torch.arange(32) % 2, 2)
    recipe = Recipe(partial(small_mlp, (5,), 2), "mlp", epochs=2, lr=1e-3)
    model = recipe(data, rng=generator(1))
    before = [w.clone() for w in model.net.state_dict().values()]
    further = online(recipe, model)
    made = pickle.loads(pickle.dumps(further)).make()
    for ours, theirs in zip(made.state_dict().values(), before, strict=True):
        assert torch.equal(ours, theirs)
    later = further(data, rng=generator(2))
    assert any(not torch.equal(a, b) for a, b in zip(later.net.state_dict().values(), before, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(model.net.state_dict().values(), before, strict=True))
    assert all(p.requires_grad for p in made.parameters())


def test_victims_of_different_models_have_different_recipes() -> None:
    data = Samples(torch.rand(32, 5, generator=generator(0)), torch.arange(32) % 2, 2)
    recipe = Recipe(partial(small_mlp, (5,), 2), "mlp", epochs=1)
    one, other = (online(recipe, recipe(data, rng=generator(seed))) for seed in (1, 2))
    assert one.digest() != other.digest()
    assert one.digest() == online(recipe, recipe(data, rng=generator(1))).digest()


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"bounds": (-1.0, 1.0)}, "takes inputs as they are"), ({"outputs": "probabilities"}, "return logits")],
)
def test_a_model_of_other_inputs_or_outputs_than_a_recipes_is_refused(settings: dict, says: str) -> None:
    recipe = Recipe(partial(small_mlp, (5,), 2), "mlp", epochs=1)
    with pytest.raises(UsageError, match=says):
        online(recipe, Classifier(recipe.make(), 2, (5,), **settings))
