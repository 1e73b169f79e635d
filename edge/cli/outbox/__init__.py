"""Commands `edge outbox …`."""
