"""The smallest honest settings in which each method's claim can be seen.

A scene states data, victim, budget and bar; it measures nothing. `casemate prove` runs it: clean,
random baseline of equal budget, method, bar.
"""

from importlib import import_module

from casemate.core.errors import NotApplicable
from casemate.core.registry import Entry
from casemate.core.registry import find as find_method
from casemate.scenes.scene import Scene

MODULES = (
    "evasion", "transfer", "universal", "semantic", "physical", "malware", "poisoning", "targeted", "backdoors",
    "membership",
    "defences", "serving", "scanning",
)  # fmt: skip


def find(method: str) -> Scene:
    """Find the scene of a method: its own, or its family's standard one.

    Raises NotApplicable if neither the method nor its family has a scene.
    """
    entry = find_method(method)
    for name in MODULES:
        module = import_module(f"casemate.scenes.{name}")
        own: dict[str, Scene] = module.SCENES
        if entry.id in own:
            return own[entry.id]
    standard = _standard(entry)
    if standard is None:
        raise NotApplicable(f"{entry.id} has no scene")
    return standard


def _standard(entry: Entry) -> Scene | None:
    if entry.family != "evasion":
        return None
    from casemate.scenes.evasion import standard

    return standard(entry)
