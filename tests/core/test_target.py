"""Targets and oracles: one normalisation, an untouched net, every pass counted."""

import copy
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from casemate.core.data import Samples
from casemate.core.errors import QueryLimitReached, UsageError
from casemate.core.features import halves, penultimate
from casemate.core.recipe import Recipe
from casemate.core.target import (
    Classifier,
    GradientOracle,
    LabelOracle,
    Ledger,
    Prepared,
    ScoreOracle,
    order_for,
)
from casemate.core.threat import Misclassify

WEIGHT = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, -1.0]])


def linear() -> Classifier:
    """Logits (x0, 2 x1, -x2)."""
    net = nn.Linear(3, 3, bias=False)
    with torch.no_grad():
        net.weight.copy_(WEIGHT)
    return Classifier(net, 3, (3,))


def with_statistics() -> nn.Sequential:
    """A small convnet with everything that training mode changes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(12, 4)
        )


def images(n: int) -> Tensor:
    return torch.rand(n, 2, 4, 4, generator=torch.Generator().manual_seed(0))


X = torch.tensor([[0.9, 0.1, 0.5], [0.1, 0.8, 0.5], [0.2, 0.3, 0.0]])


# --- classifiers ----------------------------------------------------------------------------------


def test_N1_declared_bounds_and_statistics_are_applied_in_that_order():
    """The net sees (low + (high - low) x - mean) / std: for x = 0.25, (-1 + 2 * 0.25 - 0.1) / 0.5 = -1.2."""
    net = nn.Flatten()
    target = Classifier(net, 8, (2, 2, 2), bounds=(-1.0, 1.0), mean=(0.1, 0.3), std=(0.5, 0.25))
    seen = target.logits(torch.full((1, 2, 2, 2), 0.25)).view(2, 4)
    torch.testing.assert_close(seen[0], torch.full((4,), -1.2))
    torch.testing.assert_close(seen[1], torch.full((4,), -3.2))


def test_G3_probabilities_become_logits_by_their_logarithm():
    z = torch.tensor([[2.0, 0.0, -1.0]])
    target = Classifier(nn.Softmax(1), 3, (3,), outputs="probabilities")
    torch.testing.assert_close(target.logits(z), z.log_softmax(1))


def test_G3_a_probability_of_zero_is_a_finite_logit():
    target = Classifier(nn.Identity(), 2, (2,), outputs="probabilities")
    assert target.logits(torch.tensor([[1.0, 0.0]])).isfinite().all()


def test_predictions_are_made_in_evaluation_mode_and_modes_are_put_back():
    net = with_statistics().train()
    net[1].eval()
    before = copy.deepcopy(net.state_dict())
    target = Classifier(net, 4, (2, 4, 4))
    first, second = target.predict(images(5)), target.predict(images(5))
    assert torch.equal(first, second)
    assert [m.training for m in net] == [True, False, True, True, True, True]
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())


def test_S1_modes_are_put_back_when_the_net_fails():
    net = with_statistics().train()
    with pytest.raises(RuntimeError):
        Classifier(net, 4, (2, 4, 4)).predict(torch.zeros(2, 7, 4, 4))
    assert all(m.training for m in net)


def test_predictions_do_not_depend_on_the_batch_size():
    target = Classifier(with_statistics(), 4, (2, 4, 4))
    torch.testing.assert_close(target.predict(images(7), batch=3), target.predict(images(7)))
    assert target.predict(images(0)).shape == (0, 4)


# --- prepared copies ------------------------------------------------------------------------------


def test_preparing_leaves_the_net_alone():
    net = with_statistics().train()
    prepared = Prepared(Classifier(net, 4, (2, 4, 4)))
    assert all(m.training for m in net)
    assert all(p.requires_grad for p in net.parameters())
    assert net[0].weight.is_contiguous()
    assert not any(m.training for m in prepared.net.modules())
    assert not any(p.requires_grad for p in prepared.net.parameters())
    with torch.no_grad():
        net[0].weight.zero_()
    assert prepared.net[0].weight.ne(0).any()


def test_a_prepared_target_answers_as_the_target_does():
    target = Classifier(with_statistics(), 4, (2, 4, 4), mean=(0.4, 0.5), std=(0.2, 0.3))
    prepared = Prepared(target)
    for answer in (prepared.exact, prepared.quick, prepared.steering):
        torch.testing.assert_close(answer(images(5)), target.predict(images(5)))


def test_quick_answers_come_without_a_graph_and_from_the_compiled_forward_if_any():
    prepared = Prepared(linear())
    assert not prepared.quick(X.clone().requires_grad_()).requires_grad
    prepared.fast = lambda x: torch.full((len(x), 3), 7.0)
    assert prepared.quick(X).eq(7).all()
    assert prepared.exact(X).ne(7).all()


# --- oracles --------------------------------------------------------------------------------------


def spent(oracle: LabelOracle) -> tuple[list[int], list[int]]:
    return oracle.ledger.queries.tolist(), oracle.ledger.gradients.tolist()


def test_decisions_and_scores_cost_a_query_per_row():
    oracle = ScoreOracle(linear(), 3)
    assert oracle.labels(X).tolist() == [0, 1, 1]
    torch.testing.assert_close(oracle.logits(X), X @ WEIGHT.T)
    assert oracle.succeeds(X, Misclassify(torch.tensor([0, 0, 0]))).tolist() == [False, True, True]
    assert spent(oracle) == ([3, 3, 3], [0, 0, 0])


def test_a_restricted_oracle_counts_in_the_same_ledger():
    oracle = ScoreOracle(linear(), 3)
    oracle[1:].labels(X[1:])
    oracle[torch.tensor([False, False, True])].labels(X[2:])
    oracle[1:][torch.tensor([1])].labels(X[2:])
    assert spent(oracle)[0] == [0, 1, 3]


def test_a_row_asked_twice_in_one_batch_counts_twice():
    oracle = ScoreOracle(linear(), 3)
    rows = torch.tensor([0, 0, 2])
    oracle[rows].labels(X[rows])
    assert spent(oracle)[0] == [2, 0, 1]


def test_rows_that_are_not_the_oracles_are_refused():
    with pytest.raises(UsageError, match="An oracle of 3 rows was asked about 2 rows"):
        LabelOracle(linear(), 3).labels(X[:2])


def test_the_query_after_the_last_is_refused_and_not_counted():
    oracle = LabelOracle(linear(), Ledger.empty(3, limit=2))
    oracle.labels(X)
    oracle[:1].labels(X[:1])
    with pytest.raises(QueryLimitReached):
        oracle.labels(X)
    assert spent(oracle)[0] == [2, 1, 1]
    oracle[1:].labels(X[1:])


def test_no_oracle_grants_more_than_its_access():
    assert not hasattr(LabelOracle(linear(), 3), "logits")
    assert not hasattr(ScoreOracle(linear(), 3), "gradient")


def test_a_gradient_is_that_of_the_loss_and_costs_one_pass_each_way():
    """Margin of row 0 (class 0): z_1 - z_0 = 2 x1 - x0, so the gradient is (-1, 2, 0)."""
    oracle = GradientOracle(linear(), 3)
    logits, loss, grad = oracle.gradient(X, Misclassify(torch.tensor([0, 1, 1])), "margin")
    torch.testing.assert_close(logits, X @ WEIGHT.T)
    torch.testing.assert_close(loss, torch.tensor([0.2 - 0.9, 0.1 - 1.6, 0.2 - 0.6]))
    assert grad.tolist() == [[-1.0, 2.0, 0.0], [1.0, -2.0, 0.0], [1.0, -2.0, 0.0]]
    assert spent(oracle) == ([1, 1, 1], [1, 1, 1])
    assert not any(part.requires_grad for part in (logits, loss, grad))


def test_every_backward_through_a_graph_is_counted():
    oracle = GradientOracle(linear(), 3)[1:]
    z = X[1:].clone().requires_grad_()
    logits = oracle.graph(z)
    for k in range(3):
        torch.autograd.grad(logits[:, k].sum(), z, retain_graph=True)
    assert spent(oracle) == ([0, 1, 1], [0, 3, 3])


def test_S1_attacking_leaves_no_gradients_on_any_weight():
    target = linear()
    oracle = GradientOracle(target, 3)
    oracle.gradient(X, Misclassify(torch.tensor([0, 1, 1])))
    assert target.net.weight.grad is None
    assert all(p.grad is None for p in oracle.prepared.net.parameters())


def test_claims_made_in_bfloat16_count_only_once_float32_confirms_them():
    """The cheap copy answers class 2 for rows 0 and 1; in float32 row 1 only is not class 0."""

    class Liar(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([[0.0, 0, 1], [0, 0, 1], [1, 0, 0]], dtype=x.dtype) + 0 * x.sum()

    prepared = Prepared(linear())
    prepared.cheap = Liar()
    oracle = GradientOracle(prepared, 3)
    goal = Misclassify(torch.zeros(3, dtype=torch.int64))
    seen = oracle.gradient(X, goal)
    assert goal.reached(seen.logits).tolist() == [True, True, False]
    assert oracle.reached(goal, X, seen.logits).tolist() == [False, True, False]
    assert spent(oracle) == ([2, 2, 1], [1, 1, 1])


# --- nets that view channels as one row -----------------------------------------------------------
class Viewing(nn.Module):
    """A convolution whose values are viewed as one line, which channels-last order does not allow."""

    def __init__(self, channels: int = 2) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(channels, 3, 3), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.conv(x).relu().view(len(x), -1))
        return out


class Lines(nn.Module):
    """No convolution at all, and pictures of several channels viewed as one line."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(x.view(len(x), -1))
        return out


class Folding(nn.Module):
    """A filter for each channel alone, which is folded into the rows; of a single row any order allows that."""

    def __init__(self) -> None:
        super().__init__()
        self.blur, self.last = nn.Conv2d(1, 1, 3, padding=1), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        n, channels, height, width = x.shape
        blurred = self.blur(x.view(n * channels, 1, height, width)).view(n, channels, height, width)
        out: Tensor = self.last(blurred[:, :, :2, :3].flatten(1))
        return out


class Particular(nn.Module):
    """A net that refuses constant pictures by an error of its own kind."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(2, 3, 3), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        if not bool(x.std() > 0):
            raise ValueError("a blank picture")
        out: Tensor = self.last(self.conv(x).flatten(1))
        return out


@pytest.mark.parametrize(
    ("make", "channels"),
    [(Viewing, 2), (partial(Viewing, 1), 1), (Lines, 2), (Folding, 2)],
    ids=["channels", "one channel", "no convolution", "folded into rows"],
)
def test_nets_that_view_channels_as_one_row_are_attacked_in_their_own_order(make, channels) -> None:
    model = Classifier(make().eval(), 4, (channels, 4, 4))
    x = images(5)[:, :channels]
    prepared = Prepared(model)
    expected = model.predict(x)
    torch.testing.assert_close(prepared.exact(x), expected)
    torch.testing.assert_close(prepared.exact(x.contiguous(memory_format=torch.channels_last)), expected)
    grad = GradientOracle(prepared, 5).gradient(x, Misclassify(torch.zeros(5, dtype=torch.int64))).grad
    assert bool(grad.isfinite().all())
    assert penultimate(model, x).shape == (5, 32 if make is Lines else 12)
    parts = halves(model)
    torch.testing.assert_close(parts.head(parts.known(x)), expected)


def test_a_net_that_refuses_blank_pictures_is_prepared_all_the_same() -> None:
    model = Classifier(Particular().eval(), 4, (2, 4, 4))
    x = images(5)[:, :2]
    torch.testing.assert_close(Prepared(model).exact(x), model.predict(x))


def test_the_order_is_channels_last_where_a_net_allows_it_and_no_random_number_is_drawn() -> None:
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(), nn.Linear(12, 4))
    viewing, before = Viewing(), torch.get_rng_state()
    assert order_for(net, (2, 4, 4)) is torch.channels_last
    assert order_for(viewing, (2, 4, 4)) is torch.contiguous_format
    assert order_for(net, (32,)) is torch.contiguous_format
    assert net.training
    assert net[0].weight.is_contiguous()
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("channels", [1, 2])
def test_recipes_train_nets_that_view_channels_as_one_row(channels: int) -> None:
    """The average of weights runs over the rows once more."""
    x = images(40)[:, :channels].contiguous()
    data = Samples(x, torch.arange(40) % 4, 4)
    recipe = Recipe(partial(Viewing, channels), "viewing", epochs=2, batch=8, average=0.5)
    model = recipe(data, rng=torch.Generator().manual_seed(0))
    assert model.predict(x).shape == (40, 4)
