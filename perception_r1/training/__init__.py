"""A policy and how it is trained: GRPO by TRL, SFT, and what a run on GPUs needs. Notebook 04."""
