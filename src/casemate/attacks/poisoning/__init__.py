"""Poisoning: change training rows so that the model errs more."""
