"""The command line: `python -m perception_r1 run | batch | check | refresh | badges`."""

import argparse
import sys
from pathlib import Path

from perception_r1 import profiles
from perception_r1.errors import InputError
from perception_r1.files import NOTEBOOKS


def _names(text: str) -> list[str]:
    """`01,03` -> ["01", "03"]."""
    return [name.strip() for name in text.split(",") if name.strip()]


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit status is 0 if all went well, 1 if a notebook or check failed, 2 for bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m perception_r1", description=__doc__, allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="execute the notebooks", allow_abbrev=False)
    run.add_argument(
        "--profile", default="laptop", help=f"{', '.join(profiles.names())}; default laptop"
    )
    run.add_argument("--only", type=_names, metavar="01,03", help="these notebooks, not all")
    run.add_argument("--out", type=str.strip, metavar="DIR", help="default runs/<profile>")
    run.add_argument(
        "--param",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="set a notebook's parameter",
    )
    run.add_argument(
        "--resume",
        action="store_true",
        help="skip notebooks whose code and inputs are unchanged",
    )
    run.add_argument(
        "--notebooks", type=Path, default=NOTEBOOKS, metavar="DIR", help="a folder of your own"
    )
    batch = commands.add_parser(
        "batch", help="execute one notebook many times, as a plan file says", allow_abbrev=False
    )
    batch.add_argument("plan", type=Path, metavar="PLAN", help="TOML; see data/plans/")
    batch.add_argument("--out", type=str.strip, required=True, metavar="DIR")
    batch.add_argument("--jobs", type=int, metavar="N", help="rows at a time; default: by cores")
    batch.add_argument(
        "--only", type=_names, metavar="ROWS", help="these rows, not all: 'flip-*,lazy-11'"
    )
    commands.add_parser("check", help="say what works on this machine, line by line")
    refreshing = commands.add_parser(
        "refresh", help="write the outputs of a laptop run into the committed notebooks"
    )
    refreshing.add_argument("--only", type=_names, metavar="01,03", help="these notebooks, not all")
    badges = commands.add_parser(
        "badges", help="write Colab and Binder links into notebooks/README.md"
    )
    badges.add_argument(
        "repository", metavar="OWNER/NAME", help="where this project lies on GitHub"
    )
    badges.add_argument("--branch", default="main")
    given = parser.parse_args(arguments)
    try:
        for option in ("only", "out"):
            if not (value := getattr(given, option, None)) and value is not None:
                raise InputError(f"--{option} is empty; leave it out, or give it a value")
        if given.command == "check":
            from perception_r1.check import check_environment

            lines = check_environment()
            print(*lines, sep="\n")
            return 0 if all(line.met or line.optional for line in lines) else 1
        if given.command == "batch":
            from perception_r1.batch import run_batch

            return run_batch(given.plan, Path(given.out), given.jobs, given.only or [])
        if given.command == "badges":
            from perception_r1.badges import write_badges

            write_badges(given.repository, given.branch)
            return 0
        from perception_r1 import runner  # imported late, so that --help is quick

        if given.command == "refresh":
            from perception_r1.refresh import refresh

            return refresh(given.only or [])
        out = Path(given.out) if given.out else None
        notebooks = given.notebooks.resolve()
        return runner.run(
            given.profile, given.only or [], out, given.param, given.resume, notebooks
        )
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
