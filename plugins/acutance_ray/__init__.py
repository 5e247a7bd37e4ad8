"""Studies on a Ray cluster: one actor for each GPU or for some cores."""
