"""Numerics for plugin authors: pure functions on flat tensors; this package imports nothing but torch."""
