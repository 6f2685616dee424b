"""Attacks by family: one file per method, none importing another."""
