"""Text datasets, and pools of transformers that classify or continue text."""
