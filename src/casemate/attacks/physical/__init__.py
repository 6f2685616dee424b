"""Changes that survive the way through print and camera."""
