"""Ask questions of a target and keep the answers."""
