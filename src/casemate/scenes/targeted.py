"""Scenes of targeted poisoning."""

from casemate.scenes.scene import Scene

SCENES: dict[str, Scene] = {}
