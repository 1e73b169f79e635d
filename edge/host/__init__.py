"""The machine: what it is, and how the service is told apart from its parts."""
