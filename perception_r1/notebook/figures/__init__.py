"""One style, and one function a figure; titles state what a figure shows, from its numbers."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "style": ["format_p", "points", "table", "use_style"],
        "evidence": [
            "attainable",
            "coin_flips",
            "difference_grid",
            "forest",
            "paired_counts",
            "possible_splits",
            "power_curves",
            "pvalue_forms",
        ],
        "rewards": [
            "attack_grid",
            "filtering",
            "gallery",
            "gamma_sweep",
            "group_advantages",
            "judge_quality",
            "pipeline",
            "shares",
        ],
        "results": [
            "four_cells",
            "lessons",
            "table1",
            "token_weights",
            "training_curves",
            "verdicts",
        ],
    },
)
