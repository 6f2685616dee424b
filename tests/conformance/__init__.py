"""What every registered method must keep, checked on tiny models over the whole registry."""
