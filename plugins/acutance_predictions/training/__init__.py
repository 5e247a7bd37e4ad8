"""What the log of a model's training says of it; no points are opened."""
