"""A runnable companion to the paper Perception-R1 (arXiv:2506.07218), in rooms.

A room imports only from rooms that stand before it (`tests/test_house.py` holds this):

common       files written whole, errors, provenance, profiles and settings, the chat client, recorded results
evidence     paired tests, intervals and power; the paper's published numbers          notebook 01
facts        the visual fact: its forms, its sentences, when two are the same          notebooks 02, 03
problems     problems with figures: schema and Parquet, answers, Geometry3K            all
world        a small world of which everything is known                                notebooks 02, 04
annotation   from chains of thought to visual annotations, and whether they are true   notebook 02
reward       judges, how good they are, and the rewards                                notebook 03
training     a policy, and GRPO by TRL; what GPUs need                                 notebook 04
evaluation   measures of perception, comparisons, the eight benchmarks                 notebooks 04, 05
study        many runs: plans, differences over seeds, the paper's claims              notebook 05
notebook     what notebooks are run with: start, runner, resume, pages, panel, figures all

Above them all stands `__main__`, the command line.
"""

__version__ = "0.1.0"
