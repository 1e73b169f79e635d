"""Commands `edge engines …`."""
