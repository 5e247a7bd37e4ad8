"""What a surface cannot see by itself, detected: parts outside of autograd, recomputation, losses that are no mean."""
