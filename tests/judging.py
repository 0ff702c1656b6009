"""What the tests of judges share: verdicts without await, and a stub that plays a judging model."""

import asyncio

from perception_r1 import facts
from perception_r1.reward.fact_prompt import FactPrompt
from perception_r1.reward.judge_prompt import JudgePrompt
from perception_r1.reward.judges import ExactJudge, Verdict
from perception_r1.reward.llm_judge import LLMJudge
from perception_r1.world import WorldConfig, make_problems
from tests.stub_server import Call, Plan, StubServer, good

PROBLEMS = make_problems(40, WorldConfig(seed=21, image_size=96))
AB, CD = "The length of segment AB is 5.", "The length of segment CD is 7."
ANGLE = "The measure of angle ABC is 40."
KEY = "sk-a-secret-of-some-length-0123456789"
SOON = {"retry_after_ms": "1"}  # the SDK waits that long, not half a second


def gold(problem) -> list[facts.Fact]:
    return [facts.parse(form) for form in problem.gold_facts]


def stated(trees) -> list[str]:
    return [facts.to_sentence(tree) for tree in trees]


# (response, annotations): each response states every second fact of a problem
SAMPLES = [
    ("\n".join(stated(gold(problem))[k % 2 :: 2]), stated(gold(problem)))
    for k, problem in enumerate(PROBLEMS)
]


def verdicts(judge, responses, annotations) -> list[Verdict]:
    return asyncio.run(judge.judge(responses, annotations))


def marks(judge, response, *annotations):
    (verdict,) = verdicts(judge, [response], [list(annotations)])
    assert verdict.failure is None, verdict.failure
    return verdict.marks


def judged(judge, samples=SAMPLES):
    return [v.marks for v in verdicts(judge, *map(list, zip(*samples, strict=True)))]


def asked(call: Call) -> JudgePrompt | FactPrompt:
    messages = call.body["messages"]
    return FactPrompt.parse(messages) or JudgePrompt.parse(messages)


def truth(call: Call) -> Plan:
    """What a model that never errs answers."""
    prompt = asked(call)
    judge = ExactJudge(getattr(prompt, "contradictions", False))
    (verdict,) = verdicts(judge, [prompt.response], [prompt.annotations])
    return good(prompt.write(verdict.marks or ["absent"] * len(prompt.annotations)))


def at(server: StubServer, **more) -> LLMJudge:
    """A judge there that is soon done with a broken server."""
    quick = {"retries": 0, "attempts": 2, "timeout": 5, "deadline": 20}
    return LLMJudge(server.url, "stub", **quick | more)
