"""Labelled statements to train a judge on: what one sentence does to one annotation. Used in notebook 03.

Labels follow from the facts that the sentences are made of (`facts.same`, `facts.contradicts`), not from words.
"""

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import ModuleType

from perception_r1 import facts
from perception_r1.facts.reading import read_statement, split_sentences
from perception_r1.problems.schema import Problem
from perception_r1.reward.judges import Mark


@dataclass(frozen=True)
class Statement:
    """A labelled example: what one sentence does to one annotation. `id` is the problem's."""

    id: str
    annotation: str
    sentence: str
    label: Mark


_OPENERS = ("So ", "Also, ", "Next, ", "In the figure, ", "We see that ", "From the picture, ")
_JOINS = (" and ", ", and ", "; ", ", so ", ", but ", ", where ")
_HINTS = ("First look for {}.", "What is {}?", "Let me find {}.", "We do not know {} yet.")
_RANK: tuple[Mark, ...] = ("absent", "stated", "contradicted")  # of two sentences in one, the last


def statements(
    problems: Iterable[Problem], renderer: ModuleType | None = None, styles: Sequence[str] = (),
    seed: int = 0,
) -> list[Statement]:  # fmt: skip
    """Examples from gold facts: true, with a wrong value, denied, about something else, about nothing.

    Args:
        problems: with gold facts; other lines of their chains of thought are used, too.
        renderer: writes facts in other words (render, negate, hint), see `calibration.foreign_pairs`.
        styles: of the renderer; empty for all. No other style is written, not in contradictions either.
        seed: decides which, and the words.
    """
    problems = list(problems)
    styles = list(styles or renderer.STYLES) if renderer else []
    everywhere = [form for problem in problems for form in problem.gold_facts]
    found = []
    for problem in problems:
        rng = random.Random(f"{seed} {problem.id} statements")
        for form in problem.gold_facts:
            fact = facts.parse(form)
            about = list(_about(form, problem.gold_facts, everywhere, rng))
            told = [(_label(fact, other), facts.to_sentence(other)) for other in about]
            told += [("absent", text) for text in _idle(problem, form, rng)]
            if renderer:
                told += [(_label(fact, other), renderer.render(str(other), rng.choice(styles), rng))
                         for other in about]  # fmt: skip
                told.append(("contradicted", renderer.negate(form, rng)))
                told.append(("absent", renderer.hint(form, rng)))
            for label, text in told:
                if rng.random() < 0.25:
                    other, more = rng.choice(told)
                    label = max(label, other, key=_RANK.index)
                    text = text.rstrip(".") + rng.choice(_JOINS) + _lower(more)
                if rng.random() < 0.1:
                    text = rng.choice(_OPENERS) + _lower(text)
                found.append(Statement(problem.id, facts.to_sentence(fact), text, label))
    return found


def _about(
    form: str, gold: Sequence[str], everywhere: Sequence[str], rng: random.Random
) -> Iterable[facts.Fact]:
    """Facts to tell beside an annotation: itself, with other values, others, and ones easily taken for it."""
    told = [form, form, *rng.sample(gold, min(2, len(gold)))]
    if value := re.search(r"\d+(?=\)$)", form):
        for step in rng.sample((-10, -2, -1, 1, 2, 5, 10, 30), 2):
            told.append(f"{form[: value.start()]}{max(1, int(value[0]) + step)})")
    # Any fact of any figure, told with the names and the value of this one; or this one with names exchanged.
    for other in (rng.choice(everywhere), rng.choice(everywhere), form):
        mine, all_names = _names(form), _names(" ".join(gold))
        strangers = [name for name in (*all_names, *"ABCDEFGHJK") if name not in mine]
        rng.shuffle(mine)
        if other == form or rng.random() < 0.5:
            mine.insert(rng.randrange(len(mine)), strangers.pop(rng.randrange(len(strangers))))
        new = dict(zip(_names(other), dict.fromkeys([*mine, *strangers]), strict=False))
        other = re.sub(r"\b[A-Z]\b", lambda found, new=new: new[found[0]], other)
        told.append(
            re.sub(r"\d+(?=\)$)", value[0], other) if value and rng.random() < 0.7 else other
        )
    for other in told:
        if rng.random() < 0.5:  # lines and angles read backwards
            other = re.sub(r"((?:Line|Angle)\()(.+?)\)",
                           lambda found: f"{found[1]}{', '.join(found[2].split(', ')[::-1])})", other)  # fmt: skip
        yield facts.parse(other)


def _idle(problem: Problem, form: str, rng: random.Random) -> Iterable[str]:
    """Two sentences that state no fact: an open question about this one, and a computation or the like."""
    yield rng.choice(_HINTS).format(
        _lower(re.split(r" (?:is|equals|lies) ", facts.to_sentence(facts.parse(form)))[0])
    )
    v, w = int(([*re.findall(r"\d+", form), 7])[0]), rng.randint(1, 99)
    names = ", ".join(_names(" ".join(problem.gold_facts)))
    cot = [text for text in split_sentences(problem.cot or "")
           if not read_statement(text) and not text.startswith("So ")]  # fmt: skip
    yield rng.choice([
        "Let me look at the figure.", f"So the answer is {v}.", f"{v} + {w} = {v + w}.",
        f"{v + w} - {w} = {v}.", f"Numbers in the figure: {v}, {w}.", f"There are points {names}.", *cot,
    ])  # fmt: skip


def _label(annotation: facts.Fact, told: facts.Fact) -> Mark:
    if facts.contradicts(annotation, told):
        return "contradicted"
    return "stated" if facts.same(annotation, told) else "absent"


def _names(form: str) -> list[str]:
    return list(dict.fromkeys(re.findall(r"\b[A-Z]\b", form)))


def _lower(text: str) -> str:
    return text[0].lower() + text[1:] if text[1:2].islower() else text
