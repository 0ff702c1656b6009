"""The world of the map: its drawings say what its facts say, its sums are right, its shortcuts suffice."""

import re

import pytest

from perception_r1.common.errors import InputError
from perception_r1.facts import parse
from perception_r1.problems.answers import extract_answer
from perception_r1.world import make_problems, make_world, map_world
from perception_r1.world.scene import value_of


def lengths(problem):
    """Side -> length, from the gold facts."""
    facts = map(parse, problem.gold_facts)
    return {"".join(fact.args[0].args[0].args): value_of(fact) for fact in facts}


@pytest.mark.parametrize("sides", [2, 3, 8])
def test_a_sum_takes_every_labelled_side_and_no_other(sides):
    for problem in make_problems(12, map_world(sides=sides)):
        named = re.search(r"What is (.+)\?", problem.problem)[1].split(" + ")
        gold = lengths(problem)
        assert named == sorted(gold) and len(gold) == sides
        assert int(problem.answer) == sum(gold.values())
        assert problem.needed_facts == problem.gold_facts and not problem.text_facts


def test_figures_are_not_to_scale():
    for made in make_world(12, map_world(sides=5)):
        gold, at = lengths(made.problem), made.scene.points
        drawn = [abs(at[a] - at[b]) / value for (a, b), value in gold.items()]
        assert len(made.scene.strokes) == 5 and max(drawn) > 1.2 * min(drawn)


def test_a_shortcut_gives_sums_that_suffice_and_never_a_length():
    plain = make_problems(20, map_world())
    for problem, bare in zip(make_problems(20, map_world(shortcut=1)), plain, strict=True):
        gold = lengths(problem)
        given = re.findall(r"([A-H]{2}(?: \+ [A-H]{2})*) = (\d+)", problem.problem)
        assert [sum(gold[side] for side in names.split(" + ")) for names, _ in given] == [
            int(total) for _, total in given
        ]
        assert all(" + " in names for names, _ in given)
        assert sum(int(total) for _, total in given) == int(problem.answer) == int(bare.answer)
        assert problem.images == bare.images and problem.gold_facts == bare.gold_facts
        assert problem.needed_facts == () and problem.problem.endswith(bare.problem[7:])
        assert all(sentence in problem.cot for sentence in bare.cot.splitlines()[1:5])
    half = [p.problem for p in make_problems(200, map_world(shortcut=0.5))]
    assert 70 < sum("In the figure" in text for text in half) < 130
    with pytest.raises(InputError, match="shortcut takes 4 sides"):
        map_world(sides=3, shortcut=0.1)


@pytest.mark.parametrize(
    ("question", "luck"), [("sum", 0), ("remainder", 1 / 4), ("even or odd", 1 / 2)]
)
def test_the_form_of_the_question_says_how_likely_luck_is(question, luck):
    lucky = []
    for made in make_world(150, map_world(questions=(question,), teacher_error_rate=1)):
        gold, answer = sum(lengths(made.problem).values()), made.problem.answer
        if question == "even or odd":
            assert answer == ("odd" if gold % 2 else "even")
        elif question == "remainder":
            assert int(answer) == gold % 4
        lucky.append(extract_answer(made.problem.cot) == answer)
    right = (1 + luck) / 2  # a planted error is used half of the time
    assert abs(sum(lucky) / len(lucky) - right) < 0.1
