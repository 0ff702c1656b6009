import pandas as pd
import pytest

from perception_r1.common.errors import InputError
from perception_r1.evaluation.admission import admission, stated_text
from perception_r1.evaluation.perception_metrics import outcome
from perception_r1.world import make_problems, map_world

PROBLEMS = make_problems(4, map_world(seed=100), "dev")
RIGHT = [problem.cot for problem in PROBLEMS]


def admitted(reading, forced=RIGHT, greedy=RIGHT, sampled=RIGHT):
    given = (pd.DataFrame(map(outcome, PROBLEMS, texts)) for texts in (forced, greedy, sampled))
    return admission(reading, *given)


def wrong(problem):
    """The teacher's response with another answer."""
    return problem.cot.replace(f"{{{problem.answer}}}", "{99}")


def misread(problem):
    """The teacher's response with the first length misread, and another answer."""
    first = stated_text(problem).splitlines()[0]
    return wrong(problem).replace(first, first[:-2] + "1.")


def test_an_admitted_base():
    text = [misread(PROBLEMS[0]), *RIGHT[1:]]
    found = admitted(0.95, greedy=text, sampled=text)
    values = found.table.set_index("measure")["value"]
    assert found.failed == []
    assert values["answers, gold facts forced"] == 1
    assert values["facts read right, sampled"] == values["facts read right, greedy"] == 0.9375
    assert values["answers, greedy"] == values["answers, sampled"] == 0.75
    assert values["answers, greedy, where all facts are read right"] == 1
    assert values["answers, greedy, where one is not"] == 0


def test_who_reads_more_or_fewer_than_wanted_or_cannot_compute_is_refused():
    for text, says in ((RIGHT, "1.00"), (list(map(misread, PROBLEMS)), "0.75")):
        (reason,) = admitted(0.9, sampled=text).failed
        assert reason == f"facts read right, sampled: {says} (n = 4), wanted 0.87 to 0.93"
    found = admitted(1.0, forced=[wrong(PROBLEMS[0]), *RIGHT[1:]])
    with pytest.raises(InputError, match="not admitted: answers, gold facts forced: 0.75"):
        found.require()
