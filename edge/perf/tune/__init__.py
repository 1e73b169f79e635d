"""Operating-point search on the serving pipeline."""
