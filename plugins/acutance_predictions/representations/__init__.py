"""What the layers of a model make of the points: spectra, dimension, classes, similarity."""
