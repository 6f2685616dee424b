"""Training a net that is part of a classifier."""

from dataclasses import dataclass, replace

from torch import Generator, Tensor, nn

from casemate.core.target import Classifier


@dataclass(frozen=True)
class AsShown:
    """Cross-entropy of a net that sees inputs as a classifier shows them to its own: scaled, normalised."""

    model: Classifier

    def __call__(self, net: nn.Module, x: Tensor, y: Tensor, /, *, rng: Generator) -> Tensor:
        """Compute the mean loss of the batch."""
        return nn.functional.cross_entropy(replace(self.model, net=net).logits(x), y)
