"""Scenes of physical attacks: what survives the way through print and camera."""

from casemate.scenes.scene import Scene

SCENES: dict[str, Scene] = {}
