"""Fine-pruning: the order of pruning, where it stops, and that the pruned stay silent."""

import pytest
import torch
from torch import Tensor, nn

from casemate.core.data import Samples
from casemate.core.errors import NotApplicable
from casemate.core.target import Classifier
from casemate.defences.repair.fine_pruning import Pruned, _activity, fine_pruning
from casemate.ops.rng import generator


def brightness() -> Classifier:
    """1x2x2 images, two channels: the brightness, and a detector of a white lower right corner.

    Channel 0 is x, channel 1 is relu(x - 0.9). Class 1 is claimed by the mean of channel 0 over 1/2, or by
    channel 1 in the lower right corner.
    """
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([1.0, 1.0]).view(2, 1, 1, 1))
        net[0].bias.copy_(torch.tensor([0.0, -0.9]))
        net[3].weight.zero_()
        net[3].weight[1] = torch.tensor([0.25, 0.25, 0.25, 0.25, 0, 0, 0, 20])
        net[3].bias.copy_(torch.tensor([0.0, -0.5]))
    return Classifier(net, 2, (1, 2, 2))


def clean() -> Samples:
    """Dark and bright images of one grey each, none of them white."""
    grey = torch.cat([torch.linspace(0.1, 0.4, 10), torch.linspace(0.6, 0.85, 10)])
    return Samples(grey.view(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous(), (grey > 0.5).long(), 2)


def marked() -> Tensor:
    """Dark images with a white lower right corner: mean below 1/2, claimed as class 1 by the backdoor."""
    x = clean().x[:5].clone()
    x[:, :, 1, 1] = 1.0
    return x


@pytest.mark.parametrize("unit", ["neuron", "channel"])
def test_the_sleeping_detector_is_pruned_and_the_backdoor_is_gone(unit: str) -> None:
    model = brightness()
    assert (model.predict(marked()).argmax(1) == 1).all()
    mended = fine_pruning(model, clean(), unit=unit, drop=0.0, epochs=0, rng=generator(0))
    assert (mended.predict(marked()).argmax(1) == 0).all()
    assert (mended.predict(clean().x).argmax(1) == clean().y).all()
    assert (mended.net[0].mask[1] == 0).all()


def test_pruning_stops_before_it_costs_more_than_allowed() -> None:
    """Channels: only the sleeping one can go. Without the other, all logits are constant: 50% accuracy."""
    mended = fine_pruning(brightness(), clean(), unit="channel", drop=0.49, epochs=0, rng=generator(0))
    assert mended.net[0].mask.flatten(1).amax(1).tolist() == [1, 0]


def test_the_last_unit_is_never_pruned() -> None:
    mended = fine_pruning(brightness(), clean(), unit="channel", drop=1.0, epochs=0, rng=generator(0))
    assert mended.net[0].mask.sum() > 0


def test_pruned_units_stay_silent_while_the_rest_is_trained() -> None:
    before = fine_pruning(brightness(), clean(), drop=0.0, epochs=0, rng=generator(0))
    after = fine_pruning(brightness(), clean(), drop=0.0, epochs=3, lr=0.01, rng=generator(0))
    assert torch.equal(after.net[0].mask, before.net[0].mask)
    assert (after.net[0](torch.ones(1, 1, 2, 2))[0, 1] == 0).all()
    assert not torch.equal(after.net[3].weight, before.net[3].weight)


def test_training_sees_inputs_as_the_classifier_shows_them() -> None:
    """A classifier that takes 0..255 trains on those values: the first step of both is the same."""
    model = brightness()
    with torch.no_grad():
        model.net[0].weight.div_(255)
    scaled = Classifier(model.net, 2, (1, 2, 2), bounds=(0.0, 255.0))
    mended = fine_pruning(scaled, clean(), epochs=2, lr=1e-6, rng=generator(0))
    assert mended.bounds == (0.0, 255.0)
    torch.testing.assert_close(mended.predict(clean().x), brightness().predict(clean().x), atol=0.2, rtol=0)
    assert (mended.predict(marked()).argmax(1) == 0).all()


def test_activity_is_the_mean_after_norm_and_relu_of_the_convolution_that_runs_last() -> None:
    class Backwards(nn.Module):
        """Its second convolution is listed first."""

        def __init__(self) -> None:
            super().__init__()
            self.second, self.norm, self.first = nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(1, 2, 1)
            self.head = nn.Linear(12, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(self.norm(self.second(self.first(x)))).flatten(1))

    net = Backwards().eval()
    net.norm.running_mean.fill_(0.2)
    x = torch.rand(300, 1, 2, 2, generator=generator(0))
    name, activity = _activity(Classifier(net, 2, (1, 2, 2)), x)
    assert name == "second"
    expected = torch.relu(net.norm(net.second(net.first(x)))).mean(0)
    torch.testing.assert_close(activity, expected.detach())


def test_masked_outputs_are_zero_and_others_as_before() -> None:
    conv = nn.Conv2d(1, 2, 1)
    mask = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    x = torch.rand(4, 1, 1, 2, generator=generator(0))
    assert torch.equal(Pruned(conv, mask)(x), conv(x) * mask)


def test_nets_without_convolution_and_data_without_rows_are_refused() -> None:
    table = Classifier(nn.Linear(4, 2), 2, (4,))
    with pytest.raises(NotApplicable, match="no convolution"):
        fine_pruning(table, Samples(torch.rand(5, 4), torch.zeros(5, dtype=torch.int64), 2), rng=generator(0))
    with pytest.raises(NotApplicable, match="two clean rows"):
        fine_pruning(brightness(), clean()[slice(0, 1)], rng=generator(0))
