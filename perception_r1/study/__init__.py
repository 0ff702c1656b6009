"""What many runs say: plans, methods over seeds, the paper's claims; and the theory of the map. Notebooks 04 and 05."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "analysis": ["over_seeds", "record_study"],
        "claims": ["Evidence", "judge_claims", "read_claims"],
        "credit": ["Condition", "predict", "rollouts"],
        "plans": ["read_plan", "read_results"],
        "where": ["coordinates", "nearest"],
    },
)
