"""Conversion of models to FP16."""
