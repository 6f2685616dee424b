"""Scenes of universal attacks: one change, or one network that makes it, for all inputs."""

from casemate.scenes.scene import Scene

SCENES: dict[str, Scene] = {}
