"""Membership inference: tell which rows a model was trained on."""
