"""Boards as folders of files, from the values of public sources; each labelled with board and release."""
