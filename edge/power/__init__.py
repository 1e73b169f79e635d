"""Power modes and who sets them."""
