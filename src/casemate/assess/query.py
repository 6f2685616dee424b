"""Targets that answer questions and give no gradients."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from casemate.core.errors import NotApplicable


class QueryOnly(nn.Module):
    """A model behind a function from inputs (N, *S) to outputs (N, K), without a graph.

    Asking it for a gradient raises NotApplicable, so that an attack that needs one is reported as
    not tested and not as beaten.
    """

    def __init__(self, ask: Callable[[Tensor], Tensor], what: str) -> None:
        super().__init__()
        self.ask = ask
        self.what = what

    def forward(self, x: Tensor) -> Tensor:
        """Ask about x (N, *S)."""
        if torch.is_grad_enabled() and x.requires_grad:
            raise NotApplicable(
                f"{self.what} answers queries only: attacks that need its gradients cannot run."
            )
        return self.ask(x.detach())

    def extra_repr(self) -> str:
        """Name what stands behind it."""
        return self.what


def in_batches(run: Callable[[Tensor], Tensor], x: Tensor, size: int) -> Tensor:
    """Run a model that takes batches of exactly `size` rows; the last one is filled with copies."""
    parts = []
    for part in x.split(size):
        missing = size - len(part)
        full = torch.cat([part, part[-1:].expand(missing, *part.shape[1:])]) if missing else part
        parts.append(run(full)[: len(part)])
    return torch.cat(parts)
