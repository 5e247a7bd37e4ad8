"""Slices and planes of a loss surface: directions, the points along them, pictures and a page."""
