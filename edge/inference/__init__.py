"""Inference: a picture in, findings out, on one engine."""
