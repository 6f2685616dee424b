"""One change, or one network that makes it, for all inputs."""
