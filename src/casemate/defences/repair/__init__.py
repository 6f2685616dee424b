"""Defences that mend a trained model."""
