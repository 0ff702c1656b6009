"""Many runs: plans, differences over seeds, and the paper's claims. Notebook 05."""
