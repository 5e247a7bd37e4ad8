"""The health of an installation and of a run."""
