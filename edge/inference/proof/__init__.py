"""Proof of a reading by values: what a model gives for a few known pictures, compared with what the reading says."""
