"""Curvature of the loss, as a plugin of acutance: one measure a file, beside what they share."""
