"""Image datasets, and how their files are read."""
