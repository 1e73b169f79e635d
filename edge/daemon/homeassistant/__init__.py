"""Home Assistant: discovery and the counts that its entities read."""
