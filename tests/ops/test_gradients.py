"""Gradients by row against closed forms."""

import torch

from casemate.ops.gradients import nearest_boundary, value_and_grad


def test_value_and_gradient_of_a_square():
    x = torch.tensor([[1.0, 2.0], [3.0, -1.0]])
    value, grad = value_and_grad(lambda z: z.square().sum(1), x)
    assert value.tolist() == [5.0, 10.0]
    assert torch.equal(grad, 2 * x)
    assert not value.requires_grad
    assert x.grad is None


def test_S2_a_rows_gradient_does_not_depend_on_its_neighbours():
    """The values are summed, not averaged: a batch of three has the gradients of three batches of one."""
    x = torch.rand(3, 4, generator=torch.Generator().manual_seed(0))
    _, together = value_and_grad(lambda z: z.pow(3).sum(1), x)
    alone = [value_and_grad(lambda z: z.pow(3).sum(1), x[i : i + 1])[1] for i in range(3)]
    assert torch.equal(together, torch.cat(alone))


def test_gradients_are_taken_where_they_are_switched_off():
    with torch.no_grad():
        _, grad = value_and_grad(lambda z: z.sum(1), torch.zeros(2, 3))
    assert grad.eq(1).all()


def test_the_nearest_boundary_of_a_linear_model():
    """Logits W x: the l2 distance to class k's boundary is |(w_k - w_y) x| / |w_k - w_y|.

    At x = (1, 1) and y = 0: class 1 has gap (0, 1) - (3, 0) -> 1 - 3 = -2 over sqrt(10), class 2 has
    gap (2, 0) - (3, 0) -> 2 - 3 = -1 over 1. So class 1 is nearer in l2 (0.63 against 1) although
    class 2 has the larger logit.
    """
    weight = torch.tensor([[3.0, 0.0], [0.0, 1.0], [2.0, 0.0]])
    x = torch.ones(1, 2, requires_grad=True)
    gap, slope = nearest_boundary(x @ weight.T, x, torch.tensor([0]), torch.tensor([[2, 1]]), "l2")
    assert gap.tolist() == [-2.0]
    assert slope.tolist() == [[-3.0, 1.0]]
