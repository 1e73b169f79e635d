"""A picture in, findings out, on one engine."""
