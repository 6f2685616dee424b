"""Attack a model as its enemies would, say how sure that is, harden it and attack again."""
