"""Defences that look for a backdoor in a finished model."""
