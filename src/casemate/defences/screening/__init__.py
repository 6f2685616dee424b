"""Defences that look for poisoned rows."""
