"""Scenes of backdoors and trojans beyond the patch."""

from casemate.scenes.scene import Scene

SCENES: dict[str, Scene] = {}
