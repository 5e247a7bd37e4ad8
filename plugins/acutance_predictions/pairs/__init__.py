"""What the weights of two models say of each other: the loss between them, and the ways they went from their start."""
