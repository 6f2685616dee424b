"""Attack a model as its enemies would, say how sure that is, harden it and attack again.

    import casemate

    found = casemate.assess(model=net, data="npz:data.npz", plan="quick", out="out")
    for verdict in found.verdicts:
        print(verdict.title, verdict.outcome)

Names are imported when they are first used, so that `import casemate` stays quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from casemate.assess.result import Assessment as Assessment
    from casemate.assess.result import Result as Result
    from casemate.assess.result import Verdict as Verdict
    from casemate.assess.targets import load_data as load_data
    from casemate.assess.targets import load_model as load_model
    from casemate.core.data import Poison as Poison
    from casemate.core.data import PoisonBudget as PoisonBudget
    from casemate.core.data import Samples as Samples
    from casemate.core.errors import CasemateError as CasemateError
    from casemate.core.errors import UsageError as UsageError
    from casemate.core.recipe import Recipe as Recipe
    from casemate.core.registry import entries as entries
    from casemate.core.registry import find as find
    from casemate.core.target import Classifier as Classifier
    from casemate.core.target import GradientOracle as GradientOracle
    from casemate.core.target import LabelOracle as LabelOracle
    from casemate.core.target import ScoreOracle as ScoreOracle
    from casemate.core.threat import Become as Become
    from casemate.core.threat import Lp as Lp
    from casemate.core.threat import Misclassify as Misclassify
    from casemate.library import assess as assess
    from casemate.library import compare as compare
    from casemate.library import harden as harden
    from casemate.library import prove as prove
    from casemate.library import read as read
    from casemate.library import scan as scan

_HOME = {
    "Assessment": "casemate.assess.result",
    "Become": "casemate.core.threat",
    "CasemateError": "casemate.core.errors",
    "Classifier": "casemate.core.target",
    "GradientOracle": "casemate.core.target",
    "LabelOracle": "casemate.core.target",
    "Lp": "casemate.core.threat",
    "Misclassify": "casemate.core.threat",
    "Poison": "casemate.core.data",
    "PoisonBudget": "casemate.core.data",
    "Recipe": "casemate.core.recipe",
    "Result": "casemate.assess.result",
    "Samples": "casemate.core.data",
    "ScoreOracle": "casemate.core.target",
    "UsageError": "casemate.core.errors",
    "Verdict": "casemate.assess.result",
    "compare": "casemate.library",
    "entries": "casemate.core.registry",
    "find": "casemate.core.registry",
    "harden": "casemate.library",
    "load_data": "casemate.assess.targets",
    "load_model": "casemate.assess.targets",
    "prove": "casemate.library",
    "read": "casemate.library",
    "scan": "casemate.library",
}

__all__ = sorted([*_HOME, "assess"])


def __getattr__(name: str) -> Any:
    if name == "assess":
        # the package of this name can be called as the function, see there
        return import_module("casemate.assess")
    if name not in _HOME:
        raise AttributeError(f"module 'casemate' has no attribute '{name}'")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return list(__all__)
