"""What a net knows of an input just before it decides."""

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn

from casemate.core.errors import NotApplicable
from casemate.core.target import Classifier


def penultimate(model: Classifier, x: Tensor, /, *, batch: int = 250) -> Tensor:
    """Compute the input of the last linear layer for x (N, *S): features (N, D), without a graph.

    Args:
        model: its net ends in an `nn.Linear` of K outputs; the net is not touched.
        x: inputs (N, *S).
        batch: rows at a time.

    Returns:
        Features (N, D), on the device of `x`.

    Raises:
        NotApplicable: the last `nn.Linear` is not the classifying one.
    """
    net = copy.deepcopy(model.net)
    last: list[tuple[Tensor, torch.Size]] = []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        last[:] = [(inputs[0], output.shape)]

    for layer in net.modules():
        if isinstance(layer, nn.Linear):
            layer.register_forward_hook(note)
    spy = replace(model, net=net)
    found = []
    for part in x.split(batch):
        logits = spy.predict(part)
        if not last or last[0][1] != logits.shape:
            raise NotApplicable(
                "the net does not end in a linear layer (nn.Linear), whose input would be the features"
            )
        found.append(last[0][0].flatten(1).to(x.device))
        last.clear()
    return torch.cat(found) if found else x.new_zeros(0, 0)
