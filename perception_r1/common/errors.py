"""The one exception for what a person can mend: bad input, a missing file, an impossible setting."""


class InputError(ValueError):
    """What was given cannot be used; the message names what, where and the remedy in one line.

    The command line prints the message alone, without a traceback, and exits with status 2.
    """


def some(items: object, limit: int = 5) -> str:
    """Name the first few of `items` in a message, and say how many more there are."""
    items = sorted(items, key=str)  # type: ignore[call-overload]
    shown = ", ".join(str(item) for item in items[:limit])
    return shown if len(items) <= limit else f"{shown} and {len(items) - limit} more"
