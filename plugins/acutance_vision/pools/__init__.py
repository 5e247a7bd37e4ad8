"""Pools of image classifiers: trained on first use, or from checkpoints."""
