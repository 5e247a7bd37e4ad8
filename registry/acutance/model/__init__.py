"""A network and its loss as a function of the flat vector of its parameters."""
