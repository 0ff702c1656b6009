"""How policies and models are measured: perception, comparisons, admission of bases, benchmarks. Notebooks 04 and 05.

`perception_metrics` asks a policy of the miniature's world, `comparison` compares two, `admission` says whether a base
may be trained; `evaluate` scores any model on the paper's eight benchmarks (`benchmarks`), by our rules (`our_rules`)
and, where they are known, its authors' (`official_rules`); `agreement` checks both against published verdicts.
"""

import lazy_loader

PUBLIC = {
    "admission": ["admit_base"],
    "benchmarks": ["BENCHMARKS"],
    "comparison": ["compare", "summary"],
    "our_rules": ["Item", "ours"],
    "perception_metrics": ["measure", "outcome"],
}
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs=PUBLIC)
