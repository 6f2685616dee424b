"""A classifier cut before its last layer gives its features with a graph, and takes another head."""

import pytest
import torch
from torch import nn

from casemate.core.errors import NotApplicable
from casemate.core.features import halves, penultimate
from casemate.core.target import Classifier
from casemate.ops.rng import generator

X = torch.rand(7, 4, generator=generator(0))


def classifier(*between: nn.Module) -> Classifier:
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), *between, nn.Linear(5, 3))
    return Classifier(net, 3, (4,), mean=(0.2,), std=(0.5,))


def test_features_are_the_same_as_without_a_graph_and_have_a_gradient() -> None:
    model = classifier()
    x = X.clone().requires_grad_()
    found = halves(model).features(x)
    torch.testing.assert_close(found.detach(), penultimate(model, X))
    found.sum().backward()
    assert x.grad is not None
    assert model.net[0].weight.grad is None


def test_another_head_answers_by_its_weights_and_the_old_net_stays() -> None:
    """Logits of the new net are features times weights plus biases, the last column."""
    model, weights = classifier(), torch.randn(2, 6, generator=generator(1))
    other = halves(model).with_head(weights)
    expected = penultimate(model, X) @ weights[:, :-1].T + weights[:, -1]
    torch.testing.assert_close(other.predict(X), expected)
    assert other.classes == 2
    assert model.predict(X).shape == (7, 3)


def test_a_net_that_is_one_linear_layer_has_its_inputs_as_features() -> None:
    model = Classifier(nn.Linear(4, 3), 3, (4,))
    assert torch.equal(halves(model).features(X), X)
    assert halves(model).with_head(torch.zeros(2, 5)).predict(X).shape == (7, 2)


@pytest.mark.parametrize("between", [(), (nn.Dropout(0.9),)])
def test_dropout_thins_the_features_and_leaves_the_net_alone(between: tuple[nn.Module, ...]) -> None:
    model = classifier(*between)
    thinned = halves(model, dropout=0.5)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = torch.stack([thinned.features(X) for _ in range(2000)])
    assert not torch.equal(drawn[0], drawn[1])
    # a mean of 2,000 draws, each 0 or twice the value, deviates by 1/45 of it; five times that is 0.12
    torch.testing.assert_close(drawn.mean(0), penultimate(model, X), atol=1e-6, rtol=0.12)
    assert torch.equal(penultimate(model, X), penultimate(model, X))
    assert all(m.p == 0.9 for m in model.net if isinstance(m, nn.Dropout))


def test_a_net_without_a_linear_end_is_refused() -> None:
    with pytest.raises(NotApplicable, match="linear layer"):
        halves(Classifier(nn.Sequential(nn.Linear(4, 6), nn.GLU()), 3, (4,)))


def test_features_and_gradients_of_images_are_those_of_the_net_as_it_is() -> None:
    """Features come from a copy that pools before it rectifies and has its channels last."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 5), nn.ReLU(), nn.Linear(5, 3),
        )  # fmt: skip
    model, x = Classifier(net, 3, (1, 8, 8)), torch.rand(6, 1, 8, 8, generator=generator(2)).requires_grad_()
    layout = [p.stride() for p in net.parameters()]
    cut = halves(model)
    found, wanted = cut.features(x), net[:-1](x)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(penultimate(model, x.detach()), wanted.detach())
    slopes = [torch.autograd.grad(out.square().sum(), x)[0] for out in (found, wanted)]
    torch.testing.assert_close(*slopes)
    # the head's new owner may be trained further, so that it is the net as it was
    assert type(cut.with_head(torch.zeros(2, 6)).net[0]) is nn.Conv2d
    assert [p.stride() for p in net.parameters()] == layout
    assert [type(layer) for layer in net[:3]] == [nn.Conv2d, nn.ReLU, nn.MaxPool2d]
