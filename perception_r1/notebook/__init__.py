"""What the notebooks are run with: their start and end, the runner, pages, panels, exercises, figures."""

import lazy_loader

PUBLIC = {
    "exercises": ["check"],
    "figures": ["format_p", "table"],
    "notebook_run": ["NotebookRun", "start"],
}
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs=PUBLIC)
