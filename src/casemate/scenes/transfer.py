"""Scenes of transfer: attacks crafted on models of one's own."""

from casemate.scenes.scene import Scene

SCENES: dict[str, Scene] = {}
