"""What many runs say: the theory of credit and the map, a model's place on it, plans, claims. Notebooks 04 and 05."""

import lazy_loader

PUBLIC = {
    "claims": ["judge_claims", "read_claims"],
    "credit": ["Condition", "predict", "rollouts"],
    "map": ["cell_table", "each_run", "primary_tests"],
    "plans": ["read_plan", "read_results"],
    "where": ["coordinates", "nearest"],
}
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs=PUBLIC)
