"""The hypergradient in closed form."""

import pytest
import torch
from torch import Tensor

from casemate.ops.implicit import hypergradient


@pytest.mark.parametrize("iterations", [0, 1, 2, 200])
def test_the_hypergradient_sums_the_series_of_the_implicit_function(iterations: int) -> None:
    """Inner: max over d of w b d - a d^2 / 2, so d* = w b / a. Outer: H = c d^2 / 2 + e w.

    One step is m(d) = d + r (w b - a d) with J = 1 - r a and dm/dw = r b. After k terms of the series,
    v = c d (1 - J^k) / (1 - J) = c d (1 - J^k) / (r a), and the gradient is e + r b v. In the limit it
    is e + c d b / a, as the derivative of H(d*(w), w) says.
    """
    a, b, c, e, r = 2.0, 3.0, 0.7, 0.4, 0.1
    w = torch.tensor([1.5], dtype=torch.float64, requires_grad=True)
    d = (w * b / a).detach().requires_grad_()
    outer = (c * d.square() / 2 + e * w).sum()

    def moved() -> Tensor:
        return d + r * (w * b - a * d)

    (found,) = hypergradient(outer, moved, d, [w], iterations)
    expected = e + b / a * c * d.detach() * (1 - (1 - r * a) ** iterations)
    torch.testing.assert_close(found, expected)
