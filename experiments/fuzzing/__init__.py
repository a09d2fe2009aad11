"""The calls of the fuzz, and its valid and invalid inputs."""
