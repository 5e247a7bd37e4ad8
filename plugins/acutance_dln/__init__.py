"""Diagonal linear networks, where the right answer is known, as a plugin of acutance."""
