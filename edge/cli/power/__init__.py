"""Commands `edge power …`."""
