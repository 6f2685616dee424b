"""The field's words as types: targets, oracles, goals, budgets, data, methods."""
