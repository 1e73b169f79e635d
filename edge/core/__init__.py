"""Configuration, manifest, records, errors, clock, files and the state directory."""
