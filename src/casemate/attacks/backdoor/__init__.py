"""Backdoors: change training rows so that a trigger steers the model."""
