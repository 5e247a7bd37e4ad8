"""What predictions, representations, peers and training say of a model, also without labels."""
