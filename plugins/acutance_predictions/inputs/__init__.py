"""How strongly a model and its loss react to a change of the inputs."""
