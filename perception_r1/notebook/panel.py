"""A panel to explore: a problem's drawing, facts, responses, verdicts and rewards; drag gamma, see advantages move.

`view` is its content as HTML, from plain functions. `panel` puts controls above it in JupyterLab; where nothing can
move them (a run by papermill) `still` shows a few of its states under a slider that needs no kernel. Used in
notebook 03; `explore` does the same for a figure, in 05.
"""

import base64
import os
import re
from collections.abc import Callable, Mapping, Sequence

import ipywidgets
import jinja2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import HTML, display
from markupsafe import Markup
from matplotlib.figure import Figure

from perception_r1.evaluation.perception_metrics import marked
from perception_r1.facts import Call, key, parse, read_statement
from perception_r1.notebook.notebook_run import NotebookRun
from perception_r1.problems.schema import IMAGE_MARK, Problem
from perception_r1.reward import rewards
from perception_r1.reward.judges import Judge

HEADLESS = "PERCEPTION_R1_HEADLESS"  # set by `runner`: nobody is there to move a slider
PAPER = rewards.WEIGHTS["perception"]
SIGNS = {"stated": "✓", "absent": "–", "contradicted": "✗"}
_FOLDER = jinja2.PackageLoader("perception_r1.notebook", ".")
_TEMPLATE = jinja2.Environment(loader=_FOLDER, autoescape=True).get_template("panel.html.j2")
# JupyterLab's command mode takes arrows and letters (B, D D!) from a control that has the focus; only this attribute,
# on the element itself, keeps them there. A static page has its scripts taken out, and needs none.
_KEYS = """<script>document.addEventListener("focusin", event => {
  if (event.target.closest(".perception-r1-panel")) event.target.setAttribute("data-lm-suppress-shortcuts", "true");
});</script>"""
_MOVE = "[...this.closest('p').parentNode.querySelectorAll('details')].forEach((e, k) => e.open = k == this.value)"


def four_responses(problem: Problem) -> dict[str, str]:
    """Four ways to answer a problem, made from its teacher's chain of thought: seeing or not, right or wrong."""
    lines = problem.cot.splitlines()
    misread = [_misread(line) if _read(line) else line for line in lines]
    wrong = [line if _read(line) else _miscalculated(line, problem.answer) for line in lines]
    return {
        "sees, right": problem.cot,
        "lucky, right": "\n".join(misread),
        "sees, wrong": "\n".join(wrong),
        "blind, wrong": "It looks like one half: \\boxed{1}",
    }


def _read(line: str) -> Call | None:
    """The fact that a line states as seen; what begins with "So" is worked out."""
    return None if line.startswith("So ") else read_statement(line.strip())


def _misread(line: str) -> str:
    """The line with another value at its end."""
    return re.sub(r"(?<=[ =])\d+(?=\D*$)", lambda match: str(int(match[0]) + 3), line)


def _miscalculated(line: str, answer: str) -> str:
    """The line with another result where it gives the answer."""
    other = str(int(answer) + 10) if answer.isdigit() else "1"
    line = re.sub(r"(\\boxed\{)[^}]*", lambda match: match[1] + other, line)
    return re.sub(rf"((?:=|is) ?){re.escape(answer)}(?=\D*$)", lambda match: match[1] + other, line)


def told_truly(problem: Problem) -> bool:
    """Whether a problem has a chain of thought, and all that it states is so in the figure."""
    gold = {key(parse(form)) for form in problem.gold_facts}
    stated = map(_read, (problem.cot or "").splitlines())
    return bool(problem.cot) and all(fact is None or key(fact) in gold for fact in stated)


async def grade(problem: Problem, responses: Mapping[str, str], judge: Judge) -> pd.DataFrame:
    """Each response with its rewards and the judge's marks.

    Returns:
        A row a response (the index: its name), columns text, format, accuracy, perception, repetition, marks (one an
        annotation; empty if there was no verdict).
    """
    texts = list(responses.values())
    sight = rewards.PerceptionReward(judge)
    parts = {
        "text": texts,
        "format": rewards.format_reward(texts),
        "accuracy": rewards.accuracy_reward(texts, answer=[problem.answer] * len(texts)),
        "perception": await sight(texts, visual_key_info=[problem.visual_key_info] * len(texts)),
        "repetition": rewards.repetition_penalty(texts),
        "marks": [list(verdict.marks or ()) for verdict in sight.verdicts],
    }
    return pd.DataFrame(parts, index=list(responses))


def earned(graded: pd.DataFrame, gamma: float) -> pd.DataFrame:
    """Total reward `r` (Eq. 5 with this gamma) and `advantage` in the group.

    A response without a verdict has neither (missing): the others are compared among themselves.
    """
    weights = rewards.WEIGHTS | {"perception": gamma}
    r = sum(weight * graded[name].astype(float) for name, weight in weights.items())
    spread = r.std(ddof=1) if r.notna().sum() > 1 else 0.0
    return pd.DataFrame({"r": r, "advantage": (r - r.mean()) / (spread + 1e-4)})


def view(problem: Problem, graded: pd.DataFrame, gamma: float = PAPER) -> str:
    """One problem and its group of responses as HTML.

    Args:
        problem: with annotations; its gold facts colour what is stated, where they are known.
        graded: as `grade` gives it.
        gamma: weight of the perception reward.
    """
    paid, rows = earned(graded, gamma), []
    for name, row in graded.astype(object).where(graded.notna(), None).iterrows():
        about = {"name": name, "text": Markup(marked(problem, row["text"]))}
        rows.append({**row, **about, **paid.loc[name]})
    return _TEMPLATE.render(
        picture=base64.b64encode(problem.images[0]).decode(), answer=problem.answer, rows=rows, signs=SIGNS,
        question=_question(problem), annotations=problem.annotations, weights=rewards.WEIGHTS, gamma=gamma,
    )  # fmt: skip


def still(dial: str, frames: Mapping[float, str], first: float) -> HTML:
    """A few positions of a dial under a slider that a page moves without a kernel.

    Where a site takes the slider out (GitHub), each position opens by its own line.

    Args:
        dial: its name.
        frames: position -> what is shown there, as HTML.
        first: the position that is open at first.
    """
    parts = [
        f"<details{' open' * (at == first)}><summary>{dial} = {at:.2f}</summary>{frame}</details>"
        for at, frame in frames.items()
    ]
    slider = f'type="range" max="{len(parts) - 1}" value="{list(frames).index(first)}"'
    return HTML(f'<p><label>{dial} <input {slider} oninput="{_MOVE}"></label></p>{"".join(parts)}')


def panel(problems: Sequence[Problem], graded: Mapping[str, pd.DataFrame]) -> None:
    """Show the panel; all of it can be reached by the keyboard.

    Args:
        problems: to pick from.
        graded: id of a problem -> its group, as `grade` gives it.
    """
    problems = {problem.id: problem for problem in problems if problem.id in graded}
    if os.environ.get(HEADLESS):
        name, problem = next(iter(problems.items()))
        frames = {gamma: view(problem, graded[name], gamma) for gamma in (0, 0.3, PAPER, 1, 1.5)}
        display(still("gamma", frames, PAPER))
        return
    names = [(f"{name}: {_question(problem)[:50]}", name) for name, problem in problems.items()]
    wide = {"layout": {"width": "46em", "max_width": "100%"}}
    wide |= {"style": {"description_width": "6em"}}
    pick = ipywidgets.Dropdown(options=names, description="problem", **wide)
    gamma = ipywidgets.FloatSlider(PAPER, min=0, max=2.5, step=0.05, description="gamma", **wide)
    content = ipywidgets.HTML()

    def show(_: object = None) -> None:
        content.value = view(problems[pick.value], graded[pick.value], gamma.value)

    pick.observe(show, "value")
    gamma.observe(show, "value")
    show()
    display(ipywidgets.VBox([pick, gamma, content]).add_class("perception-r1-panel"), HTML(_KEYS))


def _question(problem: Problem) -> str:
    return problem.problem.replace(IMAGE_MARK, "").strip()


def explore(run: NotebookRun, draw: Callable[..., Figure], **sliders: tuple) -> None:
    """Show a figure with a slider an argument; in a run by papermill the last one alone, at five positions.

    Args:
        run: where the figures of those positions are written.
        draw: makes the figure.
        sliders: argument -> its least and largest value, and the step.
    """
    if not os.environ.get(HEADLESS):
        plt.ioff()  # else each position is shown twice
        widget = ipywidgets.interactive(draw, {"auto_display": True}, **sliders)
        return display(widget.add_class("perception-r1-panel"), HTML(_KEYS))
    dial, (low, high, _) = list(sliders.items())[-1]
    frames = {}
    for at in np.linspace(low, high, 5).tolist():
        shown = run.save_figure(draw(**{dial: at}), f"{draw.__name__}_{at:.2f}")
        data = base64.b64encode(shown.data).decode()
        about = f'alt="{shown.alt}" width="{shown.width}"'
        frames[at] = f'<img src="data:image/png;base64,{data}" {about}>'
    display(still(dial, frames, (low + high) / 2))
