"""A runnable companion to the paper Perception-R1 (arXiv:2506.07218).

Rooms, from the ground floor up (a module imports only from lower floors):

1  errors, files, provenance, profiles
2  paper (published numbers), stats (paired tests), artifacts (what notebooks write)
3  benchmarks (published responses of other systems)
4  plots (one figure a function)
5  pages (HTML), notebooks (what one says about itself), runner (papermill over them), refresh,
   check (what works on this machine)
6  __main__ (the command line)
"""

__version__ = "0.1.0"
