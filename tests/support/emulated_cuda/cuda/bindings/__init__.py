"""Stands for cuda-bindings in tests."""
