"""Home Assistant: discovery and what its entities read."""
