"""What a net's weights give away without a single input."""

import torch
from torch import Tensor, nn

from casemate.core.errors import NotApplicable
from casemate.core.features import halves
from casemate.core.scanning import anomaly
from casemate.core.target import Classifier

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def signature(model: Classifier) -> Tensor:
    """Tell how far each class's mean weight in the last layer lies above the usual one, (K,), in deviations.

    A trigger has to outvote whatever else is in the picture, so that the weights of its class tend to be
    larger (Fields et al. 2021, "Trojan signatures in DNN weights"). Raises NotApplicable for nets that do
    not end in a linear layer.
    """
    return anomaly(-halves(model).head.weight.detach().mean(1)).cpu()


def lipschitz(model: Classifier) -> float:
    """Find the most sensitive channel of all convolutions, in deviations above its layer's mean.

    The bound of a channel is the largest singular value of its kernel, times the slope of the batch
    normalisation behind it (Zheng et al. 2022, "Data-free backdoor removal based on channel Lipschitzness").
    Raises NotApplicable for nets without convolutions.
    """
    found, before = [], None
    for layer in model.net.modules():
        if isinstance(layer, CONVOLUTIONS) and len(layer.weight) > 1:
            before = torch.linalg.matrix_norm(layer.weight.detach().flatten(2), ord=2)
            before = before if before.dim() == 1 else before.flatten()
            found.append(before)
        elif isinstance(layer, nn.BatchNorm2d) and before is not None and len(before) == layer.num_features:
            assert layer.running_var is not None
            slope = layer.weight.detach() / (layer.running_var + layer.eps).sqrt()
            found[-1] = found[-1] * slope.abs()
            before = None
    if not found:
        raise NotApplicable("the net has no convolutions")
    return max(float(((f - f.mean()) / f.std().clamp(min=1e-12)).max()) for f in found)
