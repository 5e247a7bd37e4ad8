"""Numerics for plugin authors: pure functions on flat tensors; this package imports torch and, on use, numba."""
