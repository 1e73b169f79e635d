"""Sensors of the board: rails, energy, temperature, load."""
