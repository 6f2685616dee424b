"""Data by name: the built-in sets, .npz files, folders of pictures, functions of the user."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from casemate.assess.arrays import Reading
from casemate.assess.digest import digest, digest_tensors
from casemate.assess.hubs import hf_arrays
from casemate.assess.imported import parse_function
from casemate.assess.pictures import read_folder, stack
from casemate.assess.result import Flag
from casemate.core.data import Samples
from casemate.core.errors import UsageError

FORMS = "builtin:NAME, npz:FILE, folder:DIR, hf:NAME or file.py:function"
Parts = dict[str, tuple[Any, Any]]


@dataclass(frozen=True)
class LoadedData:
    """Data to judge with: `test` was not seen in training, `train` was and may be missing.

    `flags` tell what was changed on the way, such as moved axes.
    """

    train: Samples | None
    test: Samples
    name: str
    digest: str
    flags: tuple[Flag, ...] = ()


def load_data(spec: Any, *, bounds: tuple[float, float] = (0.0, 1.0)) -> LoadedData:
    """Load data by its specification.

    Args:
        spec: one of builtin:NAME, npz:FILE, folder:DIR, hf:NAME, file.py:function or
            package.module:function; or what such a function returns: samples, (x, y), (x_train,
            y_train, x_test, y_test), a pair of samples, or a mapping with these names.
        bounds: lowest and highest value of float inputs; they become 0 and 1.

    Returns:
        The data with their digest, and flags on what was changed on the way.

    Raises:
        UsageError: the data cannot be had or are not as they must be.
    """
    if not isinstance(spec, str):
        return _from_returned(spec, "data in memory", bounds)
    kind, colon, rest = spec.partition(":")
    match kind:
        case "builtin" if colon:
            return _builtin(spec, rest)
        case "npz" if colon:
            parts, names = _npz(Path(rest).expanduser())
            return _loaded(parts, names, spec, bounds)
        case "folder" if colon:
            parts, names = read_folder(Path(rest).expanduser())
            return _loaded(parts, names, spec, bounds)
        case "hf" if colon:
            parts, names = _hf(rest)
            return _loaded(parts, names, spec, bounds)
    function = parse_function(spec)
    if function is None:
        hint = f" Did you mean 'npz:{spec}'?" if spec.endswith(".npz") else ""
        hint = hint or (f" Did you mean 'folder:{spec}'?" if Path(spec).is_dir() else "")
        raise UsageError(f"Data must be one of {FORMS}. Got '{spec}'.{hint}")
    return _from_returned(function(), spec, bounds)


def _builtin(spec: str, name: str) -> LoadedData:
    from casemate.builtin import data

    known = {"fashion-mini": data.fashion_mini, "digits": data.digits, "shapes": data.shapes}
    if name not in known:
        raise UsageError(f"The built-in data sets are {', '.join(known)}. Got '{name}'.")
    train, test = known[name]()
    return _named(train, test, spec)


def _npz(path: Path) -> tuple[Parts, tuple[str, ...]]:
    if not path.is_file():
        raise UsageError(f"The file of 'npz:{path}' does not exist.")
    try:
        with path.open("rb") as raw:
            file = np.load(raw, allow_pickle=False)
            arrays = dict(file) if isinstance(file, np.lib.npyio.NpzFile) else {}
    except (ValueError, OSError, EOFError, BadZipFile) as error:
        why = (
            "it holds Python objects, which are not opened" if "pickle" in str(error).lower() else str(error)
        )
        raise UsageError(f"{path.name} cannot be read as a .npz file of arrays: {why}.") from None
    return _parts(arrays, path.name)


def _parts(arrays: Mapping[str, Any], title: str) -> tuple[Parts, tuple[str, ...]]:
    names = tuple(str(n) for n in np.asarray(arrays["classes"]).tolist()) if "classes" in arrays else ()
    if {"x_test", "y_test"} <= arrays.keys():
        parts = {"test": (arrays["x_test"], arrays["y_test"])}
        if {"x_train", "y_train"} <= arrays.keys():
            parts["train"] = (arrays["x_train"], arrays["y_train"])
        return parts, names
    # a training part beside them would be lost without a word
    if {"x", "y"} <= arrays.keys() and not {"x_train", "y_train", "x_test", "y_test"} & arrays.keys():
        return {"test": (arrays["x"], arrays["y"])}, names
    got = ", ".join(sorted(arrays)) or "none"
    raise UsageError(
        f"{title} must hold the arrays x_train, y_train, x_test and y_test, or x and y. Got {got}."
    )


def _hf(name: str) -> tuple[Parts, tuple[str, ...]]:
    arrays = hf_arrays(name)
    names = arrays.pop("names")
    for part in [key.removeprefix("x_") for key in arrays if key.startswith("x_")]:
        pictures = arrays[f"x_{part}"]
        arrays[f"x_{part}"] = stack(pictures, [f"{part} {row}" for row in range(len(pictures))])
        arrays[f"y_{part}"] = np.array(arrays[f"y_{part}"])
    return _parts(arrays, name)[0], names


def _from_returned(value: Any, title: str, bounds: tuple[float, float]) -> LoadedData:
    if isinstance(value, LoadedData):
        return value
    if isinstance(value, Samples):
        return _named(None, value, title)
    if isinstance(value, Mapping):
        parts, names = _parts(value, title)
        return _loaded(parts, names, title, bounds)
    if isinstance(value, Sequence) and len(value) == 2 and isinstance(value[1], Samples):
        return _named(value[0], value[1], title)
    if isinstance(value, Sequence) and len(value) in (2, 4):
        keys = ("x", "y") if len(value) == 2 else ("x_train", "y_train", "x_test", "y_test")
        parts, names = _parts(dict(zip(keys, value, strict=True)), title)
        return _loaded(parts, names, title, bounds)
    raise UsageError(
        f"{title} must give samples, (x, y), (x_train, y_train, x_test, y_test) or a mapping with these names. "
        f"Got a {type(value).__name__}."
    )


def _loaded(parts: Parts, names: Sequence[str], title: str, bounds: tuple[float, float]) -> LoadedData:
    reading = Reading(bounds)
    found = reading.samples(parts, names)
    return _named(found.get("train"), found["test"], title, tuple(reading.flags.values()))


def _named(train: Samples | None, test: Samples, name: str, flags: tuple[Flag, ...] = ()) -> LoadedData:
    if not len(test):
        raise UsageError(f"The test data of {name} must have at least one row. It has none.")
    parts = {"test": test} if train is None else {"test": test, "train": train}
    tensors = {f"{axis}_{part}": getattr(s, axis) for part, s in parts.items() for axis in ("x", "y")}
    return LoadedData(
        train, test, name, digest(digest_tensors(tensors), str(test.classes), *test.names), flags
    )
