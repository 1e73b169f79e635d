"""Configuration, manifest, records, errors, clock, and the state directory."""
