"""Defences that stand between an input and the model."""
