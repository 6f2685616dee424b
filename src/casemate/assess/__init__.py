"""Ask questions of a target and keep the answers.

The package can be called: `casemate.assess(...)` is `casemate.library.assess(...)`. Python puts a
package's name where a function of the same name would stand, so the package itself answers.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        # by name, since the library stands above this package
        return import_module("casemate.library").assess(*arguments, **settings)


sys.modules[__name__].__class__ = _Callable
