"""Built-in scene."""
