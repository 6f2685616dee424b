"""FT-SAM: one step in closed form, the worst weights by brute force, and normalisation that forgets them."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from casemate.core.data import Samples
from casemate.core.errors import NotApplicable, UsageError
from casemate.core.target import Classifier
from casemate.defences.repair.ft_sam import ft_sam, sharp_gradient, worst
from casemate.ops.rng import generator


def test_the_worst_weights_maximise_the_linearised_loss() -> None:
    """w = (2, -1), g = (1, 4): T g = (2, 4) in size, T^2 g = (4, 4), ||T g|| = sqrt(20).

    For rho = 0.5 the changes are 2 / sqrt(20) of both, and no other of 20,000 on the surface raises
    g e as much as g e = rho ||T g||.
    """
    w, g = torch.tensor([2.0, -1.0]), torch.tensor([1.0, 4.0])
    # the two weights are one parameter each: the norm is over all of them
    there = torch.cat(worst([w[:1], w[1:]], [g[:1], g[1:]], 0.5))
    torch.testing.assert_close(there - w, torch.full((2,), 2 / 20**0.5))
    angle = torch.linspace(0, 2 * torch.pi, 20_000)
    surface = 0.5 * torch.stack([angle.cos(), angle.sin()], dim=1) * w
    assert g @ (there - w) >= (surface @ g).max() - 1e-5
    torch.testing.assert_close(g @ (there - w), torch.tensor(0.5 * 20**0.5))


@pytest.mark.parametrize("scale", [1.0, 1e-25], ids=["usual", "tiny"])
def test_the_worst_weights_do_not_depend_on_the_size_of_the_gradient(scale: float) -> None:
    w, g = torch.tensor([2.0, -1.0]), torch.tensor([1.0, 4.0])
    torch.testing.assert_close(worst([w], [scale * g], 0.5)[0], w + 2 / 20**0.5)
    assert torch.equal(worst([w], [0 * g], 0.5)[0], w)
    assert torch.equal(worst([w], [None], 0.5)[0], w)


def test_nets_that_view_channels_are_mended() -> None:
    class Viewing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.last = nn.Conv2d(2, 3, 3, padding=1), nn.Linear(48, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.conv(x).view(len(x), -1))

    rows = Samples(torch.rand(10, 2, 4, 4, generator=generator(0)), torch.arange(10) % 2, 2)
    mended = ft_sam(Classifier(Viewing().eval(), 2, (2, 4, 4)), rows, epochs=1, rng=generator(1))
    assert mended.predict(rows.x).isfinite().all()


def two_logits(w: float) -> Classifier:
    """Logits (w x, 0) for one value x."""
    net = nn.Linear(1, 2)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[w], [0.0]]))
        net.bias.zero_()
    return Classifier(net, 2, (1,))


def test_the_gradient_of_a_logistic_loss_is_taken_at_the_worst_weight() -> None:
    """x = 1 of class 0: loss log(1 + exp(-w)), gradient -s(-w) by w with s the logistic function.

    Only w itself is not zero, so that T g = w g and the worst weight is w (1 - rho). The gradient there is
    -s(-w (1 - rho)); at the other weights, which do not move, it is s(-w (1 - rho)) by the second and the
    same by the biases.
    """
    w, rho = 1.5, 0.4
    model = two_logits(w)
    weights = list(model.net.parameters())
    loss = sharp_gradient(model, weights, torch.ones(1, 1), torch.tensor([[1.0, 0.0]]), rho)
    pull = 1 / (1 + torch.tensor(w * (1 - rho)).exp())
    torch.testing.assert_close(loss, -(1 - pull).log())
    expected = torch.stack([-pull, pull])
    torch.testing.assert_close(weights[0].grad, expected[:, None])
    torch.testing.assert_close(weights[1].grad, expected)
    assert model.net.weight[0, 0] == w


def test_normalisation_forgets_the_worst_weights() -> None:
    """After a pass the running mean is that of the weights themselves, (1 - 0.1) 0 + 0.1 mean(w x)."""
    net = nn.Sequential(nn.Linear(1, 2, bias=False), nn.BatchNorm1d(2), nn.Linear(2, 2)).train()
    x = torch.rand(8, 1, generator=generator(0))
    expected = 0.1 * net[0](x).mean(0).detach()
    aims = torch.tensor([[1.0, 0.0]]).expand(8, 2)
    sharp_gradient(Classifier(net, 2, (1,)), list(net.parameters()), x, aims, 5.0)
    torch.testing.assert_close(net[1].running_mean, expected)
    assert net[1].num_batches_tracked == 1
    assert net[1].track_running_stats


def rows() -> Samples:
    """Two classes that the first ten of twenty values tell apart."""
    y = torch.arange(200) % 2
    x = 0.25 + 0.1 * torch.randn(200, 20, generator=generator(0))
    x[:, :10] += 0.2 * y[:, None]
    return Samples(x.clamp(0, 1), y, 2)


def test_the_loss_stays_lower_around_the_weights_than_after_plain_fine_tuning() -> None:
    """Both are measured on the rows themselves, at the worst weights within twice the radius of training."""
    data, state = rows(), torch.random.get_rng_state()
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 2)).eval()
    torch.random.set_rng_state(state)
    model, aims = Classifier(net, 2, (20,)), nn.functional.one_hot(data.y).float()
    worst_losses = []
    for rho in (0.0, 1.0):
        tuned = ft_sam(model, data, rho=rho, kept=0.0, epochs=50, rng=generator(0))
        assert (tuned.predict(data.x).argmax(1) == data.y).float().mean() > 0.95
        weights = list(tuned.net.parameters())
        worst_losses.append(float(sharp_gradient(tuned, weights, data.x, aims, 2.0)))
    assert worst_losses[1] < 0.9 * worst_losses[0]


def test_models_without_gradients_and_a_single_row_are_refused() -> None:
    two = Samples(torch.ones(2, 1), torch.zeros(2, dtype=torch.int64), 2)
    for model, clean in ((two_logits(1.0), two[:1]), (replace(two_logits(1.0), differentiable=False), two)):
        with pytest.raises(NotApplicable, match="gradients and weights, and at least two clean rows"):
            ft_sam(model, clean, rng=generator(0))


def test_a_training_that_diverges_is_an_error_and_no_model() -> None:
    data = Samples(torch.rand(8, 1, generator=generator(0)), torch.arange(8) % 2, 2)
    with pytest.raises(UsageError, match="FT-SAM diverged"):
        ft_sam(two_logits(1.0), data, rho=1e39, epochs=3, rng=generator(1))
