"""A frame's path: batch, lane, reorder, filter."""
