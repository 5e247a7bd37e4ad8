"""Worst-case sharpness by Auto-PGD, as a plugin of acutance."""
