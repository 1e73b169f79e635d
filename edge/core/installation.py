"""Advice on how to install a part of edge that is missing; edge itself is on no package index."""


def install_advice(extra: str = "all") -> str:
    """Return the commands that install an extra, for an error message; `all` has what every command needs."""
    return (
        f"install edge with its extra {extra!r}: `pip install '.[{extra}]'` in a checkout, "
        f"or `pip install 'WHEEL[{extra}]'` with the wheel's file name"
    )
