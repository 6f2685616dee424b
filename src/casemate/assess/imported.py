"""The user's own functions, named so that a worker process can find them again."""

import hashlib
import importlib
import importlib.util
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from casemate.core.errors import CasemateError, UsageError


@dataclass(frozen=True)
class Function:
    """A function in a file or a package; calling this calls it with the given arguments.

    `source` is the absolute path of a file or the dotted name of a module. A module of a file is
    imported under a private name, so that it replaces no other module.
    """

    source: str
    name: str

    def __str__(self) -> str:
        """Name it without the folders before it."""
        return f"{Path(self.source).name if self.is_file else self.source}:{self.name}"

    @property
    def is_file(self) -> bool:
        """Tell whether the source is a file."""
        return self.source.endswith(".py")

    def __call__(self, *arguments: Any) -> Any:
        """Import the module, if need be, and call the function.

        Raises UsageError if the module cannot be imported, has no such function, or that raised.
        """
        function = self.find()
        try:
            return function(*arguments)
        except CasemateError:
            raise
        except (Exception, SystemExit) as error:
            raise UsageError(f"{self} raised {_blame(error)}.") from error

    def find(self) -> Any:
        """Import the module, if need be, and look the function up."""
        module = _from_file(Path(self.source)) if self.is_file else _from_package(self.source)
        function = getattr(module, self.name, None)
        if function is None:
            known = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
            there = f" Functions there: {', '.join(sorted(known)[:8])}." if known else ""
            raise UsageError(f"{self} names a function that does not exist.{there}")
        if not callable(function):
            raise UsageError(f"{self} must be a function. Got a value of type {type(function).__name__}.")
        return function


def parse_function(spec: str) -> Function | None:
    """Read `file.py:function` or `package.module:function`; None where a text is neither."""
    source, colon, name = spec.rpartition(":")
    if not colon or not name.isidentifier():
        return None
    if source.endswith(".py"):
        path = Path(source).expanduser()
        if not path.is_file():
            raise UsageError(f"The file of '{spec}' does not exist: {source}.")
        return Function(str(path.resolve()), name)
    if all(part.isidentifier() for part in source.split(".")):
        return Function(source, name)
    return None


def _from_file(path: Path) -> ModuleType:
    # an edited file is another module, so that a notebook never gets the former one
    content = str(path).encode() + _read(path)
    name = f"casemate_user_{path.stem}_{hashlib.sha256(content).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    _look_in(str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path.name} cannot be imported as Python.")
    module = importlib.util.module_from_spec(spec)
    # classes in it can only be pickled while it is listed
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise UsageError(f"{path.name} cannot be imported: {_blame(error)}.") from error
    return module


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path.name} cannot be read: {error.strerror}.") from None


def _from_package(name: str) -> ModuleType:
    _look_in(str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise UsageError(f"The module {name} cannot be imported: {_blame(error)}.") from error


def _look_in(folder: str) -> None:
    """Let a user's file import its neighbours, as Python does for a script.

    Behind the standard library: worker processes take over the path, and a neighbour called
    json.py must not break them.
    """
    if folder not in sys.path:
        installed = (i for i, place in enumerate(sys.path) if "-packages" in place)
        sys.path.insert(next(installed, len(sys.path)), folder)


def _blame(error: BaseException) -> str:
    """One line on what was raised, and on the last line of the user's own code that led there."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    foreign = ("<frozen", "site-packages", __file__)
    own = [f for f in traceback.extract_tb(error.__traceback__) if not any(w in f.filename for w in foreign)]
    if isinstance(error, SyntaxError) or not own:
        return text
    return f"{text} ({Path(own[-1].filename).name}, line {own[-1].lineno})"
