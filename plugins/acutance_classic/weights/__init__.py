"""Measures of the weights layer by layer: norms of weight matrices, paths through them, and their spectra."""
