"""Curvature of the loss, as a plugin of acutance."""
