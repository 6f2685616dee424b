"""Scenes of semantic attacks: changes that keep the meaning and leave every ball."""

from casemate.scenes.scene import Scene

SCENES: dict[str, Scene] = {}
