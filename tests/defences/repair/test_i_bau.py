"""I-BAU: the search on a linear model, random marks, averaged weights, and a backdoor that is unlearnt."""

import pytest
import torch
from torch import Tensor, nn

from casemate.core.data import Samples
from casemate.core.errors import NotApplicable
from casemate.core.target import Classifier
from casemate.defences.repair.i_bau import Search, i_bau, random_marks
from casemate.ops.rng import generator


def linear(weights: list[list[float]]) -> Classifier:
    net = nn.Linear(2, len(weights))
    with torch.no_grad():
        net.weight.copy_(torch.tensor(weights))
        net.bias.zero_()
    return Classifier(net, len(weights), (2,))


def test_the_search_finds_the_direction_of_a_class() -> None:
    """Logits w_k x. Towards class 0 against class 1 the best direction is w_0 - w_1, of length `radius`.

    Rows are at 1/2, far enough from 0 and 1 for a radius of 0.2.
    """
    model = linear([[1.0, 0.0], [0.0, 2.0]])
    rows = Samples(torch.full((8, 2), 0.5), torch.arange(8) % 2, 2)
    found = Search(model, rows, "class", {"l2": 0.2}).run(0, generator(0))
    best = 0.2 * torch.tensor([1.0, -2.0]) / 5**0.5
    torch.testing.assert_close(found.delta, torch.stack([best, -best]), atol=0.02, rtol=0)
    assert found.delta.norm(dim=1).amax() <= 0.2 + 1e-6


def test_a_sparse_search_spends_all_on_the_value_that_counts_most() -> None:
    """Logits w_k x. Over ||d||_1 <= 0.2, (w_0 - w_1) d is largest where all of d is in the larger entry.

    That is the second, -2, for class 0 and 2 for class 1. With both balls, aims and shares are those of each.
    """
    model = linear([[1.0, 0.0], [0.0, 2.0]])
    rows = Samples(torch.full((8, 2), 0.5), torch.arange(8) % 2, 2)
    found = Search(model, rows, "class", {"l2": 0.3, "l1": 0.2}).run(0, generator(0))
    best = torch.tensor([[0.0, -0.2], [0.0, 0.2]])
    torch.testing.assert_close(found.delta[2:], best, atol=0.02, rtol=0)
    assert found.delta[2:].abs().sum(1).amax() <= 0.2 + 1e-6
    assert found.aims.tolist() == [0, 1, 0, 1]
    assert len(found.reached) == 4


def test_the_paper_s_search_climbs_the_loss_of_the_true_class() -> None:
    """All rows are of class 0, so that the loss rises towards class 1."""
    model = linear([[1.0, 0.0], [0.0, 2.0]])
    rows = Samples(torch.full((8, 2), 0.5), torch.zeros(8, dtype=torch.int64), 2)
    found = Search(model, rows, "error", {"l2": 0.2}).run(0, generator(0))
    best = 0.2 * torch.tensor([[-1.0, 2.0]]) / 5**0.5
    torch.testing.assert_close(found.delta, best, atol=0.02, rtol=0)
    assert found.aims.tolist() == [-1]


def test_no_value_of_a_perturbation_exceeds_the_range_of_inputs() -> None:
    """Logits (x_1 + x_2, 0) of rows at 0 and at 1: towards class 0 both values rise, towards class 1 they fall.

    Within [-1, 1] the ends are (1, 1) and (-1, -1), of length 1.4. An l2 ball of 3 has room for more.
    """
    model = linear([[1.0, 1.0], [0.0, 0.0]])
    rows = Samples(torch.tensor([0.0, 1.0]).repeat(4)[:, None].expand(-1, 2), torch.arange(8) % 2, 2)
    found = Search(model, rows, "class", {"l2": 3.0}).run(0, generator(0))
    torch.testing.assert_close(found.delta, torch.tensor([[1.0, 1.0], [-1.0, -1.0]]), atol=0, rtol=0)


def test_classes_that_a_pass_has_no_room_for_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two values and eight rows of a pass make 16 for each class: 40 have room for two of five."""
    monkeypatch.setattr("casemate.defences.repair.i_bau.AT_ONCE", 40)
    model = linear([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    sizes: list[int] = []
    model.net.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].numel()))
    rows, rng = Samples(torch.full((10, 2), 0.5), torch.arange(10) % 5, 5), generator(0)
    search = Search(model, rows, "class", {"l2": 0.2, "l1": 0.2})
    turns = [search.run(number, rng).aims.tolist() for number in (0, 1, 10, 20, 30, 40)]
    assert max(sizes) <= 40
    assert turns[0] == turns[1] == 2 * turns[0][:2]
    drawn = [aim for turn in turns[1:] for aim in turn[:2]]
    assert sorted(drawn[:5]) == sorted(drawn[5:]) == [0, 1, 2, 3, 4]
    assert i_bau(model, rows, rounds=2, steps=1, rng=rng).classes == 5


def test_random_marks_move_few_values_as_far_as_inputs_reach() -> None:
    """Of 40 values up to three, 7.5%, are moved, by 1 up or down, anywhere; 2.9 on average are not the same."""
    marks = random_marks(500, (2, 4, 5), generator(0))
    sizes = marks.abs().flatten(1).sum(1)
    assert marks.shape == (500, 2, 4, 5)
    assert sizes.min() >= 1
    assert sizes.max() == 3
    assert 2.85 < float(sizes.mean()) < 2.97
    assert set(marks.unique().tolist()) == {-1.0, 0.0, 1.0}
    assert (marks != 0).any(0).all()
    assert abs(float(marks.sum())) < 100


def small(**settings: float) -> tuple[list[Tensor], Classifier]:
    """Mend a linear model in ten rounds, and note its weights after each."""
    model, seen = linear([[1.0, 0.0], [0.0, 2.0]]), []
    rows = Samples(torch.rand(20, 2, generator=generator(3)), torch.arange(20) % 2, 2)

    class Watch(torch.optim.Adam):
        def step(self, closure: None = None) -> None:  # type: ignore[override]
            super().step(closure)
            seen.append(self.param_groups[0]["params"][0].detach().clone())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.optim.Adam", Watch)
        mended = i_bau(model, rows, radius=0.2, rounds=10, steps=2, rng=generator(0), **settings)  # type: ignore[arg-type]
    return seen, mended


def test_the_weights_of_the_last_three_tenths_are_averaged() -> None:
    seen, mended = small()
    assert len(seen) == 20
    expected = torch.stack(seen[14:]).mean(0)
    torch.testing.assert_close(mended.net.weight, expected)
    assert not torch.allclose(expected, seen[-1], atol=1e-6)


def test_marks_are_learnt_from_where_they_are_asked_for() -> None:
    """All rows, none or some of the perturbed ones get a random mark."""
    weights = [small(marks=share)[1].net.weight for share in (0.0, 0.5, 1.0)]
    assert not torch.allclose(weights[0], weights[1], atol=1e-4)
    assert not torch.allclose(weights[1], weights[2], atol=1e-4)


class Viewing(nn.Module):
    """A convolution whose channels are viewed as one row, which needs them to come first."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(2, 3, 3, padding=1), nn.Linear(3 * 16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.conv(x).view(len(x), -1))


@pytest.mark.parametrize("shift", [0, 1])
def test_nets_that_view_channels_are_mended(shift: int) -> None:
    model = Classifier(Viewing().eval(), 2, (2, 4, 4))
    rows = Samples(torch.rand(10, 2, 4, 4, generator=generator(0)), torch.arange(10) % 2, 2)
    mended = i_bau(model, rows, rounds=1, steps=1, shift=shift, rng=generator(1))
    assert mended.predict(rows.x).isfinite().all()


def backdoored() -> tuple[Classifier, Samples, Tensor]:
    """Twenty values, of which the first ten tell two classes apart; the last one is a trigger for class 1."""
    rng = generator(0)
    y = torch.arange(400) % 2
    x = 0.25 + 0.1 * torch.randn(400, 20, generator=rng)
    x[:, :10] += 0.5 * y[:, None]
    x[:, -1] = 0.0
    dirty, labels = x.clone(), y.clone()
    dirty[:60, -1], labels[:60] = 1.0, 1
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 2))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(dirty), labels).backward()
        optimizer.step()
    marked = x[200:][y[200:] == 0].clone()
    marked[:, -1] = 1.0
    return Classifier(net.eval(), 2, (20,)), Samples(x[200:].clamp(0, 1), y[200:], 2), marked


@pytest.mark.parametrize("iterations", [0, 2])
def test_a_trigger_that_one_value_carries_is_unlearnt(iterations: int) -> None:
    state = torch.random.get_rng_state()
    model, clean, marked = backdoored()
    torch.random.set_rng_state(state)
    assert (model.predict(marked).argmax(1) == 1).float().mean() > 0.95
    mended = i_bau(model, clean, iterations=iterations, radius=1.0, lr=0.01, rng=generator(0))
    assert (mended.predict(marked).argmax(1) == 1).float().mean() < 0.1
    assert (mended.predict(clean.x).argmax(1) == clean.y).float().mean() > 0.95


def test_models_without_gradients_and_data_without_rows_are_refused() -> None:
    model, clean, _ = backdoored()
    with pytest.raises(NotApplicable, match="two clean rows"):
        i_bau(model, clean[slice(0, 1)], rng=generator(0))
