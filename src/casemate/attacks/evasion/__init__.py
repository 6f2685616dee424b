"""Evasion: change an input so that the model errs."""
