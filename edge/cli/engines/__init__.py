"""The `edge engines` commands."""
