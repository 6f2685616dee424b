import torch
from torch import nn

from casemate.assess.checks import adaptation, inspect_gradients
from casemate.core.adaptive import Hooks
from casemate.core.data import Samples
from casemate.core.target import Classifier, Prepared
from casemate.defences.serving.smoothing import smoothing
from casemate.ops.rng import generator
from casemate.report.flags import explain


class NoGradient(nn.Module):
    """Right on both classes; the square root of zero has the gradient 0 * infinity, which is NaN."""

    def forward(self, x):
        first = x[:, :1]
        return torch.cat([0.5 - first, first - 0.5], 1) + torch.sqrt(0 * first)


def test_a_gradient_that_is_no_number_counts_as_none():
    target = Classifier(NoGradient(), 2, (2,))
    samples = Samples(torch.tensor([[0.2, 0.0], [0.9, 0.0]]), torch.tensor([0, 1]), 2)
    codes = {flag.code for flag in inspect_gradients(Prepared(target), samples, 0)}
    assert "zero-gradient" in codes


class Line(nn.Module):
    """Logits (-s, s) for s = w (x - 1/2)."""

    def forward(self, x):
        s = (x - 0.5) @ torch.tensor([1.0, 2.0])
        return torch.stack([-s, s], 1)


class Levels(nn.Module):
    def forward(self, x):
        return (8 * x).round() / 8


class Flipped(nn.Module):
    """The identity, with its gradient the wrong way round."""

    def forward(self, x):
        return 2 * x.detach() - x


class Wobbly(nn.Module):
    def forward(self, x):
        return x + 0.05 * torch.rand_like(x)


def inspected(layer, hooks=None):
    target = Classifier(nn.Sequential(layer, Line()), 2, (2,))
    x = torch.rand(80, 2, generator=torch.Generator().manual_seed(0))
    samples = Samples(x, target.predict(x).argmax(1), 2)
    prepared = Prepared(target)
    return {f.code for f in inspect_gradients(prepared, samples, 0, hooks or Hooks())}, prepared, x


def test_a_sound_model_raises_no_doubt():
    assert inspected(nn.Identity())[0] == set()


def test_a_quantised_model_is_doubted_and_no_longer_once_gradients_go_round():
    codes, prepared, x = inspected(Levels())
    assert {"zero-gradient", "large-eps-fails", "random-search-finds-more"} <= codes
    hooks, notes = adaptation(prepared, x, randomised=False)
    assert hooks == Hooks(bpda=("auto",))
    assert [(f.code, f.detail) for f in notes] == [("gradient-blocked", "layer '0' of type Levels")]
    assert inspected(Levels(), hooks)[0] == set()


def test_a_gradient_that_points_the_wrong_way_is_found_by_finite_differences():
    codes, _, _ = inspected(Flipped())
    assert {"misleading-gradient", "random-search-finds-more"} <= codes


def test_a_random_layer_is_named_and_averaged_over():
    _, prepared, x = inspected(Wobbly())
    hooks, notes = adaptation(prepared, x, randomised=True)
    assert (hooks.eot, hooks.answers, hooks.bpda) == (20, 20, ())
    assert ("random-layer", "layer '0'") in [(f.code, f.detail) for f in notes]


def test_a_model_that_averages_itself_is_averaged_over_less():
    target = smoothing(Classifier(Line(), 2, (2,)), sigma=0.1, draws=50, rng=generator(0))
    hooks, _ = adaptation(Prepared(target), torch.rand(4, 2), randomised=True)
    assert (hooks.eot, hooks.answers) == (2, 2)


def test_every_doubt_about_gradients_names_a_hook():
    for code in ("zero-gradient", "randomised", "black-box-beats-white-box", "more-steps-hurt",
                 "transfer-beats-white-box", "one-step-beats-many", "random-search-finds-more",
                 "misleading-gradient"):  # fmt: skip
        action = explain(code).action
        assert "eot" in action or "bpda" in action
        assert action.count(".") == 1, "one plain sentence"
