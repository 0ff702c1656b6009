"""A runnable companion to the paper Perception-R1 (arXiv:2506.07218).

Rooms, from the ground floor up (a module imports only from its own floor or lower ones):

1  errors, files, provenance, settings (of a training run), profiles
2  paper (published numbers), stats (paired tests), artifacts (what notebooks write), recorded (results),
   answers (extract and grade), checkpoints (whole ones only), forms, expressions, cache
3  sentences, chat (one client for any endpoint), systems (published answers of other systems),
   official (how benchmarks' authors score)
4  facts (the visual fact: equality, sentences, kinds), problems (datasets)
5  world/ (the embedded geometry world)
6  geometry3k (the real one), annotate (chains of thought to annotations)
7  audit (annotations against gold facts), judge (verdicts; judges that need no server), plots (one figure
   a function)
8  llm_judge (a language model as judge), judge_server (any judge as an endpoint), calibration (how good a
   judge is, and admission), statements (to train a judge on), learned_judge (a small trained one),
   attacks (on judges), rewards (format, accuracy, repetition, perception),
   policy (any vision-language checkpoint, or a miniature), once (equal images and prompts of a batch),
   generation (it answers), sight (responses against what figures show), benchmarks (eight: read, extract, score),
   evaluate (a model on one), agreement (our versions of the official rules against published verdicts),
   comparison (sees better, or reports better), lessons (what a miniature is taught), base (one that may be
   trained), trainer (TRL's, with logs and safe stops), train (settings, data and judge to a policy),
   recipe (the paper's numbers and ours), plan (memory, time, cost, commands), dry_run (what is missing),
   launch (runs side by side), sft (imitation instead of rewards),
   pages (HTML), notebooks (what one says about itself), kernels (that start before their turn), runner (papermill
   over them), batch (one notebook, many parameters), study (what many runs say), claims (of the paper, with
   verdicts), prepare (what the plans need), refresh, exercises (that check themselves), panel (to explore),
   badges, check (what works on this machine)
9  __main__ (the command line)
"""

import gc

# Importing torch and transformers makes a million objects that stay; looking for garbage among them as often as
# Python does by itself takes a fifth of the time. From here on it looks less often, whatever the process does.
gc.set_threshold(50_000)

__version__ = "0.1.0"
