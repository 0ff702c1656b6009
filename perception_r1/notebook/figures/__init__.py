"""One style, and one function a figure; titles state what a figure shows, from its numbers."""

from importlib import import_module


def __getattr__(name: str) -> object:
    """What one of these files defines; they are imported when a name is first asked for."""
    for file in ("style", "evidence", "rewards", "results"):
        module = import_module(f"{__name__}.{file}")
        if name == file:
            return module
        if hasattr(module, name):
            return getattr(module, name)
    raise AttributeError(f"{__name__} has no {name}")
