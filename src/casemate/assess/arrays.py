"""Arrays as people have them, turned into samples: inputs in [0, 1], labels from 0, channels first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from casemate.assess.result import Flag
from casemate.core.data import Samples
from casemate.core.errors import UsageError

Array = np.ndarray[Any, np.dtype[Any]]
CHANNELS = (1, 3, 4)


@dataclass
class Reading:
    """Turns the parts of one data set into samples by the same rules, and notes what it did.

    `bounds` are the lowest and highest value that inputs may have; they become 0 and 1. Inputs of
    type uint8 span 0 .. 255 whatever the bounds.
    """

    bounds: tuple[float, float] = (0.0, 1.0)
    flags: dict[str, Flag] = field(default_factory=dict)

    def samples(self, parts: Mapping[str, tuple[Any, Any]], names: Sequence[str] = ()) -> dict[str, Samples]:
        """Turn parts, each inputs and labels by its name, into samples.

        Raises UsageError if a part is not as it must be; says which, what was expected, what came.
        """
        inputs = {part: _as_array(f"x_{part}", x) for part, (x, _) in parts.items()}
        labels = {part: self._labels(f"y_{part}", y) for part, (_, y) in parts.items()}
        binary = all(x.dtype == np.uint8 and x.size and x.max() <= 1 for x in inputs.values())
        moved = all(_channels_last(x.shape) for x in inputs.values())
        largest = max((int(y.max()) for y in labels.values() if len(y)), default=0)
        if names and largest >= len(names):
            raise UsageError(
                f"The labels must be below {len(names)}, the number of class names. Got {largest}."
            )
        found = {}
        for part in parts:
            x, y = self._scaled(f"x_{part}", inputs[part], binary), labels[part]
            if len(x) != len(y):
                raise UsageError(
                    f"The data must have one label per input. '{part}' has {len(x)} inputs, {len(y)} labels."
                )
            x = self._laid_out(x, moved)
            classes = len(names) or largest + 1
            found[part] = Samples(torch.from_numpy(x), torch.from_numpy(y), classes, tuple(names))
        shapes = {part: s.shape for part, s in found.items()}
        if len(set(shapes.values())) > 1:
            raise UsageError(f"All parts of the data must have inputs of one shape. Got {shapes}.")
        return found

    def _labels(self, name: str, y: Any) -> Array:
        array = _as_array(name, y)
        if array.ndim != 1:
            raise UsageError(f"'{name}' must be class numbers of shape (N,). Got shape {array.shape}.")
        if array.dtype.kind not in "iub":
            raise UsageError(f"'{name}' must be whole numbers, the classes from 0. Got {array.dtype}.")
        if len(array) and array.min() < 0:
            row = int(np.argmin(array))
            raise UsageError(f"'{name}' must be classes from 0. Got {array.min()} in row {row}.")
        return array.astype(np.int64)

    def _scaled(self, name: str, x: Array, binary: bool) -> Array:
        if x.ndim < 2:
            raise UsageError(f"'{name}' must hold one input per row, (N, ...). Got shape {x.shape}.")
        if x.dtype == np.uint8:
            if binary:
                self._note(
                    "binary-inputs",
                    "the inputs are whole numbers 0 and 1, taken as they are and not as 255ths",
                )
            return x.astype(np.float32) / np.float32(1 if binary else 255)
        if x.dtype.kind not in "fb":
            raise UsageError(f"'{name}' must be uint8 (0 .. 255) or floats. Got {x.dtype}.")
        x = x.astype(np.float32)
        bad = ~np.isfinite(x).all(tuple(range(1, x.ndim)))
        if bad.any():
            row = int(np.argmax(bad))
            raise UsageError(
                f"'{name}' must hold finite numbers. Got NaN or infinity in {bad.sum()} rows, first in row {row}."
            )
        return self._into_unit(name, x)

    def _into_unit(self, name: str, x: Array) -> Array:
        low, high = self.bounds
        slack = 1e-5 * (high - low)
        if x.size and not (low - slack <= x.min() and x.max() <= high + slack):
            raise UsageError(
                f"'{name}' must lie in the declared bounds [{low:g}, {high:g}]. Got {x.min():g} .. {x.max():g}. "
                "Give raw inputs with --bounds LOW,HIGH; if the model takes normalised ones, add --mean and --std."
            )
        unit = x if (low, high) == (0.0, 1.0) else (x - np.float32(low)) / np.float32(high - low)
        return np.clip(unit, 0, 1).astype(np.float32)

    def _laid_out(self, x: Array, moved: bool) -> Array:
        if x.ndim == 3:
            self._note("channel-added", f"inputs of shape {x.shape[1:]} are taken as grey images (1, H, W)")
            x = x[:, None]
        elif moved:
            self._note(
                "channels-moved", f"inputs came as (H, W, C) = {x.shape[1:]} and are taken as (C, H, W)"
            )
            x = np.moveaxis(x, -1, 1)
        return np.ascontiguousarray(x)

    def _note(self, code: str, detail: str) -> None:
        self.flags[code] = Flag(code=code, detail=detail)


def _channels_last(shape: tuple[int, ...]) -> bool:
    return len(shape) == 4 and shape[-1] in CHANNELS and shape[1] not in CHANNELS


def _as_array(name: str, values: Any) -> Array:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().float() if values.dtype == torch.bfloat16 else values.detach().cpu()
        return np.asarray(values.numpy())
    try:
        array = np.asarray(values)
    except ValueError:
        raise UsageError(
            f"'{name}' must be an array of inputs of one shape. Got inputs of several shapes."
        ) from None
    if array.dtype == object:
        raise UsageError(f"'{name}' must be an array of numbers. Got Python objects.")
    return array
