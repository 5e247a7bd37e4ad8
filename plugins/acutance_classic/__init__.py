"""The baselines that comparisons in the field need, as a plugin of acutance: one family of measures a file."""
