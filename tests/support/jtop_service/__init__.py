"""A machine with jtop's real service: our own emulated board and programs, below a namespace of its own."""
