"""A small world of geometry problems of which everything is known. Notebooks 02 and 04."""

import lazy_loader

PUBLIC = {
    "make": ["WorldProblem", "make_distinct", "make_problems", "make_world", "redraw", "split_of"],
    "config": ["WorldConfig", "map_world"],
    "families": ["FAMILIES"],
}
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs=PUBLIC)
