"""Changes that keep the meaning of an input and need not be small."""
