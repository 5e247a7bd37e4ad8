"""Rise of the training loss after one normalized ascent step: a measure for acutance."""
