"""Does a policy see better, or only report better? Responses against what figures show. Used in notebooks 04 and 05.

Rewards read annotations; this reads gold facts alone. Perception is measured three ways:

- stated facts: recall and precision of what a response says about the figure;
- a probe, "What is the length of AB?", in a form that is never rewarded and without the question;
- redrawing: one label of the figure is changed; does what is stated follow?

What stands in the question can be copied from there, so recall, precision and redrawing count only facts that do not.
"""

import functools
import html
import random
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from perception_r1 import facts
from perception_r1.annotation.audit import by_key, truth
from perception_r1.common.errors import InputError
from perception_r1.facts.reading import read_statement, split_sentences
from perception_r1.problems.answers import extract_answer, grade
from perception_r1.problems.schema import Problem
from perception_r1.world import WorldProblem, redraw
from perception_r1.world.scene import value_of, with_value

if TYPE_CHECKING:  # what measures responses needs no model, and starts in half the time
    from transformers import PreTrainedModel, ProcessorMixin

# --- one response ----------------------------------------------------------------------------------


def outcome(problem: Problem, response: str) -> dict[str, object]:
    """What a response says, against what the figure shows.

    A fact is stated right if it is stated and the response gives its subject no other value: naming several
    values is no sight. Facts are counted once, however often they are stated.

    Returns:
        right: whether the answer is.
        visual, seen: gold facts that do not stand in the question, and how many of them are stated right.
        said: facts stated about what does not stand in the question; what the figure contradicts or does not
            show counts here, and so is not precise.
        recall, precision: seen / visual, seen / said; missing where that is 0 / 0.
        needed: of the facts that the answer takes: "right" if all are stated right, "wrong" if another value is
            stated for one, else "left out"; None if they are not known. What stands in the question may be copied.

    Raises:
        InputError: the problem has no gold facts.
    """
    if not problem.gold_facts:
        raise InputError(f"problem {problem.id} has no gold facts; what is seen cannot be measured")
    gold, stated = by_key(problem.gold_facts), _stated(response)
    given = {_about(facts.parse(form)) for form in problem.text_facts}
    taken = {_about(facts.parse(form)) for form in problem.needed_facts}
    # from here on sets of keys
    needed = {key for key, fact in gold.items() if _about(fact) in taken}
    wrong = {k for k, f in gold.items() if any(facts.contradicts(f, g) for g in stated.values())}
    right = (gold.keys() & stated.keys()) - wrong
    open_ = {key for key, fact in (gold | stated).items() if _about(fact) not in given}
    visual, seen, said = len(open_ & gold.keys()), len(open_ & right), len(open_ & stated.keys())
    sight = "right" if needed <= right else "wrong" if needed & wrong else "left out"
    return {
        "right": grade(extract_answer(response), problem.answer),
        "visual": visual, "seen": seen, "said": said,
        "recall": seen / visual if visual else np.nan,
        "precision": seen / said if said else np.nan,
        "needed": sight if needed else None,
    }  # fmt: skip


def _stated(response: str) -> dict[object, facts.Fact]:
    """The distinct facts that a response states; conclusions ("So ...") and computations are none."""
    read = map(read_statement, split_sentences(response))
    return {facts.key(fact): fact for fact in read if fact}


def _about(fact: facts.Fact) -> object:
    """What a fact gives a value to; facts without a value are about themselves."""
    return facts.subject(fact) or facts.key(fact)


MARKS = {
    "true": ("var(--seen,#0072B2)", "\u2713"),
    "contradicted": ("var(--wrong,#B84A00)", "\u2717"),
    "unsupported": ("var(--soft,#6b7280)", "?"),
}


def marked(problem: Problem, response: str) -> str:
    """A response as HTML: each stated fact with a tick or a cross, a statement beyond the figure with "?"."""
    gold, lines = by_key(problem.gold_facts), []
    for line in response.splitlines():
        text = html.escape(line)
        if mark := MARKS.get(truth(read_statement(line.strip()), gold)):
            text = f'<span style="color:{mark[0]}">{text} {mark[1]}</span>'
        lines.append(text)
    return "<br>".join(lines)


# --- a policy on problems --------------------------------------------------------------------------


def measure(
    model: "PreTrainedModel",
    processor: "ProcessorMixin",
    made: Sequence[WorldProblem],
    *,
    seed: int = 0,
    max_new_tokens: int = 64,
) -> pd.DataFrame:
    """Ask a policy greedily: freely, with a probe, with one label redrawn; and freely once more, sampled.

    What is probed and redrawn depends on problem and seed, never on the policy, so that policies are paired.
    New labels take values that other figures of `made` show.

    Args:
        model: the policy.
        processor: its processor.
        made: problems of the world, as `make_world` gives them.
        seed: decides which length is probed, which label is redrawn, and what is sampled.
        max_new_tokens: most tokens of a response.

    Returns:
        One row a problem, ready for `to_csv`: `id`, what `outcome` gives, and
        `probe_fact`, `probe_right`: the length asked for; whether it was given (1 or 0). Missing where the figure
        shows no length.
        `redrawn_fact`, `redraw`: the fact with its new value; what is stated about it now: "follows" (the new
        value, and nothing like it before), "stays" (the same as of the first figure), "neither" (something
        else), "unsaid". Missing where every label stands in the question, or no other value has room.
        `sampled_right`, `sampled_seen`, `sampled_needed`: of the response that was sampled at temperature 1.
        `response`: the greedy one, as it is.

    Raises:
        InputError: a problem without gold facts.
    """
    from perception_r1.training.generation import generate
    from perception_r1.training.policy import probe_prompt

    problems = [one.problem for one in made]
    size = {"batch_size": 128, "max_new_tokens": max_new_tokens}
    ask = functools.partial(generate, model, processor, **size, quiet=True)
    values = _values(problems)
    probes = {p.id: fact for p in problems if (fact := _to_probe(p, seed))}
    redrawn = {one.problem.id: new for one in made if (new := _redrawn(one, values, seed))}
    probed = [p for p in problems if p.id in probes]
    prompts = [probe_prompt("".join(probes[p.id].args[0].args[0].args)) for p in probed]
    drawn = [(p, redrawn[p.id][1]) for p in problems if p.id in redrawn]
    changed = [p.model_copy(update={"images": (image,)}) for p, image in drawn]

    free = ask(problems)
    replies = dict(zip(probes, ask(probed, prompts=prompts), strict=True))
    again = dict(zip(redrawn, ask(changed), strict=True))
    sampled = ask(problems, greedy=False, seed=seed)

    rows = []
    for problem, response, once in zip(problems, free, sampled, strict=True):
        probe, (new, _) = probes.get(problem.id), redrawn.get(problem.id, (None, None))
        drawn = outcome(problem, once)
        row = {"id": problem.id} | outcome(problem, response)
        row["probe_fact"] = probe and str(probe)
        row["probe_right"] = float(gives(probe, replies[problem.id])) if probe else np.nan
        row["redrawn_fact"] = new and str(new)
        row["redraw"] = new and follows(new, response, again[problem.id])
        row |= {f"sampled_{name}": drawn[name] for name in ("right", "seen", "needed")}
        rows.append(row | {"response": response})
    return pd.DataFrame(rows)


def gives(fact: facts.Fact, reply: str) -> bool:
    """Whether a reply to a probe gives the fact's value, and no other.

    Said in a sentence that can be read, wherever in the reply; else as the only number in the box, or in all.
    """
    if stated := _stated_about(fact, reply):
        return stated == {facts.key(fact)}
    numbers = re.findall(r"\d+(?:\.\d+)?", extract_answer(reply) or reply)
    return set(numbers) == {str(value_of(fact))}


def follows(new: facts.Fact, before: str, after: str) -> str:
    """What becomes of a stated fact when its label changes: "follows", "stays", "neither" or "unsaid".

    Args:
        new: the fact with the value that the redrawn figure shows.
        before: the response to the first figure.
        after: the response to the redrawn figure.
    """
    then, now = _stated_about(new, before), _stated_about(new, after)
    if not now:
        return "unsaid"
    if now == then:  # also where the first figure was misread for the new value
        return "stays"
    return "follows" if now == {facts.key(new)} else "neither"


def _stated_about(fact: facts.Fact, response: str) -> set[object]:
    """Keys of what a response states about the same thing as a fact."""
    return {key for key, other in _stated(response).items() if _about(other) == _about(fact)}


def _to_probe(problem: Problem, seed: int) -> facts.Fact | None:
    gold = map(facts.parse, problem.gold_facts)
    lengths = [f for f in gold if facts.kind(f) == "length" and value_of(f) is not None]
    return random.Random(f"{seed} {problem.id} probe").choice(lengths) if lengths else None


def _values(problems: Sequence[Problem]) -> dict[str, set[int]]:
    """Kind of fact -> the values that figures show."""
    values: dict[str, set[int]] = defaultdict(set)
    for fact in {facts.parse(form) for problem in problems for form in problem.gold_facts}:
        if value_of(fact) is not None:
            values[facts.kind(fact)].add(value_of(fact))
    return values


def _redrawn(
    made: WorldProblem, values: Mapping[str, set[int]], seed: int
) -> tuple[facts.Fact, bytes] | None:
    """One label that does not stand in the question, with another value; and the figure with it."""
    problem = made.problem
    in_question, gold = by_key(problem.text_facts), by_key(problem.gold_facts)
    labels = [f for key, f in gold.items() if value_of(f) is not None and key not in in_question]
    if not labels:
        return None
    old = random.Random(f"{seed} {problem.id} redraw").choice(labels)

    def rank(value: int) -> float:  # of each value by itself, so that other problems matter little
        return random.Random(f"{seed} {problem.id} {value}").random()

    for value in sorted(values[facts.kind(old)] - {value_of(old)}, key=rank):
        try:
            return with_value(old, value), redraw(made, str(old), value)
        except InputError:  # no room for this label
            continue
    return None
