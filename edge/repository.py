"""The model repository: one folder a model, `model.toml` beside its files."""
