"""The head that a victim of transfer learning fits to frozen features."""

from torch import Tensor

from casemate.ops import logistic

# small enough that a head fits the rows it is trained on, a poison among them
L2 = 1e-6


def fit_head(features: Tensor, y: Tensor, classes: int, /, *, start: Tensor | None = None) -> Tensor:
    """Fit logistic heads to T sets of features (T, N, D) with labels y (T, N): weights (T, K, D + 1).

    The weights are float64, and the biases are their last column.
    """
    return logistic.fit(features, y, classes, l2=L2, start=start)
