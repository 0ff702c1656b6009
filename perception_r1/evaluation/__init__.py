"""What a policy learned: measures of perception, comparisons, and the paper's eight benchmarks. Notebooks 04 and 05."""
