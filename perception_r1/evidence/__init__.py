"""What paired answers can show: tests, intervals and power, and the paper's published numbers. Notebook 01."""

import lazy_loader

PUBLIC = {"stats": ["mcnemar", "paired_table", "paired_difference", "power", "sample_size"]}
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs=PUBLIC)
