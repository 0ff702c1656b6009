"""The command line: `python -m perception_r1 COMMAND ...`; each command is the `main` of one file."""

import gc
import sys
from importlib import import_module

from perception_r1.common.errors import InputError

COMMANDS = {
    "run": ("notebook.runner", "execute the notebooks"),
    "batch": ("notebook.batch", "execute one notebook many times, as a plan file says"),
    "study map": ("study.map", "record a batch's rows, and compute the map from all of them"),
    "study where": ("study.where", "say where on the map a model stands, by sampling alone"),
    "annotate": ("annotation.pipeline", "turn chains of thought into visual annotations"),
    "train": ("training.train", "train a policy with GRPO"),
    "evaluate": ("evaluation.evaluate", "score a model on one of the paper's benchmarks"),
    "serve": ("reward.judge_server", "serve a judge that needs no GPU"),
    "check": ("common.check", "say what works on this machine, line by line"),
    "refresh": ("notebook.refresh", "write the outputs of a laptop run into the committed notebooks"),
}  # fmt: skip
USAGE = "usage: python -m perception_r1 COMMAND ...    (COMMAND --help says more)\n\n" + "\n".join(
    f"  {name:<12} {purpose}" for name, (_, purpose) in COMMANDS.items()
)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit status is 0 if all went well, 1 if something it ran failed, 2 for bad input."""
    given = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    words = 2 if " ".join(given[:2]) in COMMANDS else 1
    command, rest = " ".join(given[:words]), given[words:]
    if command in ("-h", "--help"):
        print(USAGE)
        return 0
    # torch and transformers make a million objects that stay: looking through them for garbage as often as Python
    # does by itself takes a fifth of the time.
    gc.set_threshold(50_000)
    try:
        if command not in COMMANDS:
            raise InputError(f"no command {command!r}; there are {', '.join(COMMANDS)}")
        return import_module(f"perception_r1.{COMMANDS[command][0]}").main(rest)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
