"""Ways of taking a gradient against what they stand for, written out."""

import pytest
import torch

from casemate.core.errors import NotApplicable
from casemate.core.registry import find
from casemate.core.target import GradientOracle
from casemate.core.threat import Lp, Misclassify, NeverReached
from casemate.core.transfer import Sight, blurred, diverse, gradient, scaled, shuffled
from casemate.ops.blocks import draws_of, rearranged
from casemate.ops.rng import rows
from conformance.models import conv, mlp


def run(name, setting, **params):
    oracle = GradientOracle(setting.target, len(setting.x))
    goal = NeverReached(Misclassify(setting.y))
    entry = find(f"evasion.{name}")
    settings = entry.validate({"steps": 3, **params})
    return entry.run(
        oracle, setting.x, goal, Lp(norm="linf", eps=0.1), rng=rows(0, len(setting.x)), **settings
    )


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("di_fgsm", {"probability": 0.0}),
        ("di_fgsm", {"smallest": 1.0, "probability": 1.0}),
        ("ti_fgsm", {"kernel": 1}),
        ("si_fgsm", {"copies": 1}),
        ("bsr", {"copies": 2, "blocks": 1, "degrees": 0.0}),
        ("vmi_fgsm", {"reach": 0.0, "neighbours": 2}),
        ("pgn", {"reach": 0.0, "samples": 1, "balance": 0.0}),
    ],
)
def test_G6_without_its_own_idea_each_is_mi_fgsm(name, params):
    torch.testing.assert_close(run(name, conv(), **params), run("mi_fgsm", conv()))


def test_G6_without_momentum_nesterov_looks_nowhere():
    torch.testing.assert_close(run("ni_fgsm", conv(), decay=0.0), run("mi_fgsm", conv(), decay=0.0))


@pytest.mark.parametrize("name", ["di_fgsm", "ti_fgsm", "si_fgsm", "ni_fgsm", "vmi_fgsm", "pgn", "bsr"])
def test_the_idea_of_each_changes_the_example(name):
    assert not torch.equal(run(name, conv()), run("mi_fgsm", conv()))


def test_views_combine():
    """TI-DIM by either name."""
    torch.testing.assert_close(run("ti_fgsm", conv(), views="di"), run("di_fgsm", conv(), views="ti"))


def test_blocks_that_stay_where_they_are_leave_a_further_view_as_it_is():
    """One block is the picture, so that with "si" each of the two equal copies is seen at five brightnesses."""
    found = run("bsr", conv(), copies=2, blocks=1, degrees=0.0, views="si")
    torch.testing.assert_close(found, run("si_fgsm", conv()))


@pytest.mark.parametrize("views", ["dj", "di,di", "di ti"])
def test_unknown_views_are_refused(views):
    with pytest.raises(Exception, match="some of di, si, ti"):
        find("evasion.ni_fgsm").validate({"views": views})


def test_a_blur_is_the_outer_product_of_its_weights():
    """Three weights at -3, 0, 3 deviations: exp(-4.5), 1, exp(-4.5) over their sum."""
    point = torch.zeros(1, 1, 5, 5, dtype=torch.float64)
    point[0, 0, 2, 2] = 1
    line = torch.tensor([-4.5, 0.0, -4.5], dtype=torch.float64).exp()
    line = line / line.sum()
    torch.testing.assert_close(blurred(3)(point)[0, 0, 1:4, 1:4], torch.outer(line, line))


def test_the_gradient_over_copies_is_that_of_their_mean_loss():
    setting = mlp()
    goal = Misclassify(setting.y)
    z = setting.x.clone().requires_grad_()
    loss = sum(goal.loss(setting.target.logits(z / 2**i)) for i in range(3)) / 3
    (expected,) = torch.autograd.grad(loss.sum(), z)
    oracle = GradientOracle(setting.target, len(z))
    value, grad = gradient(oracle, setting.x, goal, "ce", rows(0, len(z)), Sight(looks=(scaled(3),)))
    torch.testing.assert_close(grad, expected)
    torch.testing.assert_close(value, loss.detach())
    assert oracle.ledger.gradients.tolist() == [3] * len(z)


@pytest.mark.parametrize(
    "look", [diverse(0.5, 0.6), scaled(3), shuffled(2, 2, 24.0)], ids=["smaller", "darker", "blocks"]
)
def test_gradients_go_back_the_way_that_a_picture_came(look):
    """The ways are linear in the picture, so <J dx, g> = <dx, J^T g> for all dx and g."""
    dx, g = torch.rand(2, 9, 2, 6, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for shown in look(dx, rows(0, len(dx))):
        back = (dx * shown.back(g)).sum((1, 2, 3))
        torch.testing.assert_close((shown.picture * g).sum((1, 2, 3)), back)


def test_copies_in_blocks_are_each_a_fresh_draw_of_its_own_row():
    """Each row draws all of its copies at once: copy i of row k takes the i-th numbers of stream k."""
    x, draws = conv().x, rows(3, len(conv().x)).uniform(4, draws_of(2))
    found = [copy.picture for copy in shuffled(4, 2, 24.0)(x, rows(3, len(x)))]
    assert len(found) == 4
    for i in range(4):
        torch.testing.assert_close(found[i], rearranged(x, draws[:, i], 2, 24.0))
    assert not torch.equal(found[0], found[1])


@pytest.mark.parametrize("name", ["di_fgsm", "bsr"])
def test_tables_are_no_pictures(name):
    with pytest.raises(NotApplicable, match="pictures"):
        run(name, mlp())
