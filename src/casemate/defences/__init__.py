"""Defences by the place where they stand: one file per method."""
