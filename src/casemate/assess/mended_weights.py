"""Weights of mended models that a stopped run has left behind."""

import copy
from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from casemate.assess.store import write_whole
from casemate.core.target import Classifier


def keep_weights(mended: Classifier, model: Classifier, path: Path, made: str) -> None:
    """Write a mended model's weights whole, if they fit the net that it was made from; `made` says by what."""
    weights = {k: v.detach().contiguous().cpu().clone() for k, v in mended.net.state_dict().items()}
    # pruning adds masks of its own: such a model is made again
    if set(weights) == set(model.net.state_dict()):
        write_whole(path, save(weights, {"made": made}))


def kept_weights(model: Classifier, path: Path, made: str) -> Classifier | None:
    """Read the model that was mended in just this way; None where there is none."""
    net = copy.deepcopy(model.net)
    try:
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("made") != made:
                return None
        net.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError):
        return None
    return replace(model, net=net.eval())
