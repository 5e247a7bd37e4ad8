"""Images for acutance: datasets, and pools that are trained on the spot."""
