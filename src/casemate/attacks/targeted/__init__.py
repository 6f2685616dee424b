"""Poisons that make a model err on inputs that the adversary has chosen."""
