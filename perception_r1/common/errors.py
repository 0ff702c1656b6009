"""The one exception for what a person can mend: bad input, a missing file, an impossible setting."""

from pydantic import ValidationError


class InputError(ValueError):
    """What was given cannot be used; the message names what, where and the remedy in one line.

    The command line prints the message alone, without a traceback, and exits with status 2.
    """


def some(items: object, limit: int = 5) -> str:
    """Name the first few of `items` in a message, and say how many more there are."""
    items = sorted(items, key=str)  # type: ignore[call-overload]
    shown = ", ".join(str(item) for item in items[:limit])
    return shown if len(items) <= limit else f"{shown} and {len(items) - limit} more"


def first_fault(error: ValidationError) -> str:
    """The first of pydantic's complaints: field and fault, without the input, which may be long or secret."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    fault = first["msg"].removeprefix("Value error, ")
    return ": ".join([".".join(map(str, first["loc"])), fault]) if first["loc"] else fault
