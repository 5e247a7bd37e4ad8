"""Points: batches, the forms in which they are given, their choice, their fingerprints."""
