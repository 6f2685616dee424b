"""Scenes of serving defences: what stands between an input and the model."""

from casemate.scenes.scene import Scene

SCENES: dict[str, Scene] = {}
