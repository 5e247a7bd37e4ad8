"""Average-case sharpness, as a plugin of acutance."""
