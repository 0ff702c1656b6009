"""Labelled statements to train a judge on: what one sentence does to one annotation. Used in notebook 03.

Labels follow from the facts that the sentences are made of (`facts.same`, `facts.contradicts`), not from words.
"""

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from perception_r1 import facts
from perception_r1.facts.reading import read_statement, split_sentences
from perception_r1.problems.schema import Problem
from perception_r1.reward import foreign_wording
from perception_r1.reward.judges import Mark


@dataclass(frozen=True)
class Statement:
    """A labelled example: what one sentence does to one annotation. `id` is the problem's."""

    id: str
    annotation: str
    sentence: str
    label: Mark


# Styles of `foreign_wording` to learn; the others are kept to measure on.
STYLES_TO_LEARN = ("symbols", "measures", "spelled", "passive", "joined")
_OPENERS = ("So ", "Also, ", "Next, ", "In the figure, ", "We see that ", "From the picture, ")
_JOINS = (" and ", ", and ", "; ", ", so ", ", but ", ", where ")
_HINTS = ("First look for {}.", "What is {}?", "Let me find {}.", "We do not know {} yet.")
_RANK: tuple[Mark, ...] = ("absent", "stated", "contradicted")  # of two sentences in one, the last
_VALUE = re.compile(r"\d+(?=\)$)")  # of a logic form


def statements(
    problems: Iterable[Problem], styles: Sequence[str] = (), seed: int = 0
) -> list[Statement]:
    """Examples from gold facts: true, with a wrong value, denied, about something else, about nothing.

    Args:
        problems: with gold facts; other lines of their chains of thought are used, too.
        styles: of `foreign_wording`, in which facts are written, too; empty: in this project's own words alone.
        seed: decides which, and the words.
    """
    problems = list(problems)
    everywhere = [form for problem in problems for form in problem.gold_facts]
    examples = []
    for problem in problems:
        rng = random.Random(f"{seed} {problem.id} statements")
        for form in problem.gold_facts:
            fact = facts.parse(form)
            others = _facts_to_state(form, problem.gold_facts, everywhere, rng)
            labelled = [(_label(fact, other), facts.to_sentence(other)) for other in others]
            labelled += [("absent", text) for text in _idle(problem, form, rng)]
            if styles:
                for other in others:
                    text = foreign_wording.render(str(other), rng.choice(styles), rng)
                    labelled.append((_label(fact, other), text))
                labelled.append(("contradicted", foreign_wording.negate(form, rng)))
                labelled.append(("absent", foreign_wording.hint(form, rng)))
            for label, text in labelled:
                if rng.random() < 0.25:
                    second_label, second = rng.choice(labelled)
                    label = max(label, second_label, key=_RANK.index)
                    text = text.rstrip(".") + rng.choice(_JOINS) + _lower(second)
                if rng.random() < 0.1:
                    text = rng.choice(_OPENERS) + _lower(text)
                examples.append(Statement(problem.id, facts.to_sentence(fact), text, label))
    return examples


def _facts_to_state(
    form: str, gold: Sequence[str], everywhere: Sequence[str], rng: random.Random
) -> list[facts.Fact]:
    """For an annotation: itself, with other values, others, and ones easily taken for it."""
    forms = [form, form, *rng.sample(gold, min(2, len(gold)))]
    if value := _VALUE.search(form):
        for step in rng.sample((-10, -2, -1, 1, 2, 5, 10, 30), 2):
            forms.append(f"{form[: value.start()]}{max(1, int(value[0]) + step)})")
    for other in (rng.choice(everywhere), rng.choice(everywhere), form):
        forms.append(_look_alike(form, other, gold, rng))
    forms = [_backwards(other) if rng.random() < 0.5 else other for other in forms]
    return [facts.parse(other) for other in forms]


def _backwards(form: str) -> str:
    """With lines and angles named from their other end; of "E lies on line AB" it makes another fact, on line AE."""

    def reverse(match: re.Match) -> str:
        return f"{match[1]}{', '.join(reversed(match[2].split(', ')))})"

    return re.sub(r"((?:Line|Angle)\()(.+?)\)", reverse, form)


def _look_alike(form: str, other: str, gold: Sequence[str], rng: random.Random) -> str:
    """Another fact with the names and, mostly, the value of this one; of this one itself, with a name exchanged."""
    mine = _names(form)
    strangers = [name for name in (*_names(" ".join(gold)), *"ABCDEFGHJK") if name not in mine]
    rng.shuffle(mine)
    if other == form or rng.random() < 0.5:
        place = rng.randrange(len(mine))
        mine.insert(place, strangers.pop(rng.randrange(len(strangers))))
    names = dict.fromkeys([*mine, *strangers])  # each once
    new_names = dict(zip(_names(other), names, strict=False))
    renamed = re.sub(r"\b[A-Z]\b", lambda name: new_names[name[0]], other)
    value = _VALUE.search(form)
    if value and rng.random() < 0.7:
        return _VALUE.sub(value[0], renamed)
    return renamed


def _idle(problem: Problem, form: str, rng: random.Random) -> list[str]:
    """Two sentences that state no fact: an open question about this one, and a computation or the like."""
    subject = re.split(" is | equals | lies ", facts.to_sentence(facts.parse(form)))[0]
    question = rng.choice(_HINTS).format(_lower(subject))
    number = re.search(r"\d+", form)
    v, w = int(number[0]) if number else 7, rng.randint(1, 99)
    names = ", ".join(_names(" ".join(problem.gold_facts)))
    lines = [
        "Let me look at the figure.",
        f"So the answer is {v}.",
        f"{v} + {w} = {v + w}.",
        f"{v + w} - {w} = {v}.",
        f"Numbers in the figure: {v}, {w}.",
        f"There are points {names}.",
    ]
    for text in split_sentences(problem.cot or ""):
        if not read_statement(text) and not text.startswith("So "):
            lines.append(text)
    return [question, rng.choice(lines)]


def _label(annotation: facts.Fact, stated: facts.Fact) -> Mark:
    if facts.contradicts(annotation, stated):
        return "contradicted"
    return "stated" if facts.same(annotation, stated) else "absent"


def _names(form: str) -> list[str]:
    return list(dict.fromkeys(re.findall(r"\b[A-Z]\b", form)))


def _lower(text: str) -> str:
    return text[0].lower() + text[1:] if text[1:2].islower() else text
