r"""The rewards of the paper's Eq. 5, ready for TRL. Explained in notebook 03.

    r = 0.1 format + 0.9 accuracy + 0.7 perception + repetition penalty

Each is a function of completions and of the dataset's columns, which returns one number a completion
(contract C5). Completions are strings or lists of messages. `None` says that a reward cannot be given for a
reason that the response did not cause: the judge failed, the gold answer is unusable, the problem has no
annotations. What the response itself brings about, an unreadable answer or a text too long to judge, scores
0. How the trainer leaves out a response whose judge failed is in `train`.
"""

import asyncio
import functools
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, get_args

from perception_r1.common.errors import InputError
from perception_r1.evidence import paper
from perception_r1.problems.answers import extract_answer, grade
from perception_r1.problems.schema import DatasetError, read_annotations
from perception_r1.reward.judges import MARKS, Judge, Verdict

Rewards = list[float | None]
# alpha, beta, gamma of Eq. 5 and the penalty's constants, from `data/paper/constants.csv` with their sources. The
# gamma of a run is `perception_weight` (`common/settings.py`); what an arm pays for stands in `training/arms.py`.
WEIGHTS = {
    "format": paper.constant("alpha"),
    "accuracy": paper.constant("beta"),
    "perception": paper.constant("gamma"),
    "repetition": 1.0,
}
MAX_PENALTY = paper.constant("repetition_max_penalty")
NGRAM = int(paper.constant("repetition_ngram"))


def completion_text(completion: object) -> str:
    """The text of a completion as TRL passes it: a string, or a list of messages, of which the last counts."""
    if isinstance(completion, list | tuple):
        completion = completion[-1] if completion else None
    if isinstance(completion, dict):
        completion = completion.get("content")
    return completion if isinstance(completion, str) else ""


# --- format ----------------------------------------------------------------------------------------

_OPEN, _MIDDLE, _CLOSE = "<think>\n", "\n</think>\n<answer>\n", "\n</answer>"
_BOX = r"\boxed{"


def format_reward(completions: Sequence[object], **_: object) -> Rewards:
    r"""1 for the paper's format, letter by letter, else 0 [R boxed_math_verify.py:22].

    The pattern is `<think>\n.*?\n</think>\n<answer>\n.*?\\boxed{.+?}.*?\n</answer>` over the whole text. It is
    decided here by four searches: as a regular expression it takes cubic time on hostile text.
    """
    return [float(_is_strict(completion_text(c))) for c in completions]


def format_reward_lenient(completions: Sequence[object], **_: object) -> Rewards:
    r"""1 for one think block with something in it, then one answer block with a box that can be read.

    White space around the tags is free, also a final newline and CRLF, which the prompt never forbids, and the think
    block may be open already, as some chat templates leave it. Second
    blocks, text outside the blocks, and an empty think block, all of which the strict form lets pass, are refused.
    """
    return [float(_is_lenient(completion_text(c))) for c in completions]


def _is_strict(text: str) -> bool:
    if not (text.startswith(_OPEN) and text.endswith(_CLOSE)):
        return False
    middle = text.find(_MIDDLE, len(_OPEN))  # the first one leaves most room for the box
    start, end = middle + len(_MIDDLE), len(text) - len(_CLOSE)
    box = text.find(_BOX, start, end)
    return middle >= 0 and box >= 0 and text.find("}", box + len(_BOX) + 1, end) >= 0


def _is_lenient(text: str) -> bool:
    if "<think>" not in text:
        text = f"<think>{text}"
    pieces = re.split("(</?(?:think|answer)>)", text)  # text, tag, text, ...
    if pieces[1::2] != ["<think>", "</think>", "<answer>", "</answer>"]:
        return False
    before, thoughts, between, _, after = pieces[::2]
    outside = before + between + after
    return not outside.strip() and bool(thoughts.strip()) and extract_answer(text) is not None


# --- accuracy --------------------------------------------------------------------------------------


def accuracy_reward(completions: Sequence[object], answer: Sequence[str], **_: object) -> Rewards:
    r"""1 if the last `\boxed{}` of the answer block is the gold answer, 0 if not; None for an unusable gold answer.

    No answer are: one without a box, a box in closed thoughts or behind the answer block, two values or options in
    the last box, and a hedge. See `answers.grade` for what counts as equal, and for how hostile expressions are
    bounded. Equal questions are graded once, others side by side; any thread may call it.

    Args:
        completions: see the module.
        answer: the gold answers, a column of the dataset.

    Raises:
        RuntimeError: no process can be started to grade in, or a known right answer is not graded 1:
            then no response is to blame, and training must not go on.
    """
    _check_grader()
    pairs = [
        (extract_answer(completion_text(completion)), gold if isinstance(gold, str) else "")
        for completion, gold in zip(completions, answer, strict=True)
    ]
    distinct = list(dict.fromkeys(pairs))
    with ThreadPoolExecutor() as pool:
        grades = dict(zip(distinct, pool.map(_grade, distinct), strict=True))
    return [grades[pair] for pair in pairs]


def _grade(pair: tuple[str | None, str]) -> float | None:
    given, gold = pair
    try:
        return float(grade(given, gold))
    except InputError:  # of the gold answer only
        return None


@functools.cache
def _check_grader() -> None:
    """Grade answers whose grade is known, once a process: a broken grader would call every answer wrong."""
    if not grade(r"\frac{3}{2}\sqrt{2}", r"\frac{3}{\sqrt{2}}") or grade("7", "8"):
        raise RuntimeError(
            "the grader is wrong about answers whose grade is known; give the machine less to do, or install the "
            "pinned math-verify and sympy (pip install -c constraints.txt math-verify)"
        )


# --- repetition ------------------------------------------------------------------------------------


def repetition_penalty(completions: Sequence[object], **_: object) -> Rewards:
    """The paper's penalty: -2 times the share of repeated 20-grams of words [R custom.py:128-144].

    Words are what white space separates, in small letters; texts of fewer than 20 words cost nothing. So a loop
    without spaces, or in a script that has none, costs nothing either: see `token_repetition_penalty`.
    """
    return [_penalty(completion_text(c).lower().split()) for c in completions]


def token_repetition_penalty(
    completions: Sequence[object],
    completion_ids: Sequence[Sequence[int]] | None = None,
    **_: object,
) -> Rewards:
    """The same on tokens, which text without spaces has, too.

    Args:
        completions: see the module.
        completion_ids: the policy's tokens, which TRL passes; without them a word of Latin letters, or
            any other character, is a token.
    """
    if completion_ids is None:
        completion_ids = [re.findall(r"[a-z]+|\S", completion_text(c).lower()) for c in completions]
    return [_penalty(ids) for _, ids in zip(completions, completion_ids, strict=True)]


def _penalty(tokens: Sequence[object]) -> float:
    grams = [tuple(tokens[k : k + NGRAM]) for k in range(len(tokens) - NGRAM + 1)]
    repeated = 1 - len(set(grams)) / len(grams) if grams else 0.0
    return MAX_PENALTY * repeated + 0.0  # 0.0 instead of -0.0


# --- perception ------------------------------------------------------------------------------------

Mode = Literal["recall", "contradiction_aware", "if_right"]


class PerceptionReward:
    """The share of a problem's visual annotations that the response states, as a judge marks them (Eq. 4).

    Modes:

    - "recall", the paper's: stated / all. With a judge of presence (`contradictions=False`), as the paper's is,
      naming many values pays.
    - "contradiction_aware": (stated - contradicted) / all, at least 0. A wrong value costs what a right one
      pays. Needs a judge with three marks. Relations (parallel, on a line) have no other value that would
      contradict them: naming many of them pays in both modes.
    - "if_right": as "recall" where the answer is right, else 0: sight pays only on top of a right answer.

    None where the problem has no annotations, and where the judge or its server failed. A failure that the
    response brought about scores 0. Whatever a judge does, no exception leaves a call; after each one
    `verdicts` holds what was marked (None without annotations).

    Args:
        judge: see `judges.Judge`; it should be admitted (`judge_admission.admit`).
        mode: see above.
        lost: what a failure of the judge is worth; None: nothing, such a row is left out. The reference counts 0,
            which punishes a response for its judge: for study only.
        soft: pay the mean of the judge's scores instead of the share of marks; for judges that grade.
    """

    def __init__(
        self, judge: Judge, mode: Mode = "recall", lost: float | None = None, soft: bool = False
    ):
        if mode not in get_args(Mode):
            raise InputError(f"mode is {mode!r}; it must be one of {', '.join(get_args(Mode))}")
        if mode == "contradiction_aware" and not getattr(judge, "contradictions", True):
            raise InputError(f"the judge {judge.name!r} marks presence alone; use mode='recall'")
        if soft and not getattr(judge, "graded", False):
            raise InputError(f"the judge {judge.name!r} gives no scores; use soft=False")
        self.judge, self.mode, self.lost, self.soft = judge, mode, lost, soft
        self.verdicts: list[Verdict | None] = []

    async def __call__(
        self,
        completions: Sequence[object],
        visual_key_info: Sequence[str | None],
        answer: Sequence[str] = (),
        **_: object,
    ) -> Rewards:
        """One reward a completion, from columns of the dataset: tagged annotations; for "if_right" gold answers."""
        texts = [completion_text(completion) for completion in completions]
        verdicts: list[Verdict | None] = [None] * len(texts)
        annotated: dict[int, list[str]] = {}
        for place, (_, tagged) in enumerate(zip(texts, visual_key_info, strict=True)):
            try:
                if tagged:
                    annotated[place] = read_annotations(tagged)
            except (DatasetError, TypeError, AttributeError) as error:
                verdicts[place] = Verdict(None, f"unusable annotations: {error}")
        judged = await self._judge([texts[place] for place in annotated], list(annotated.values()))
        for place, verdict in zip(annotated, judged, strict=True):
            verdicts[place] = verdict
        self.verdicts = verdicts
        scores = [self._score(verdict) for verdict in verdicts]
        if self.mode == "if_right":
            right = await asyncio.to_thread(accuracy_reward, completions, answer)
            return [
                score if score is None or r else 0.0 for score, r in zip(scores, right, strict=True)
            ]
        return scores

    async def _judge(self, texts: list[str], annotations: list[list[str]]) -> list[Verdict]:
        """The judge's verdicts; one that breaks, or does not keep to its contract once, has none."""
        if not texts:
            return []
        try:
            verdicts = list(await self.judge.judge(texts, annotations))
            for verdict, facts in zip(verdicts, annotations, strict=True):
                marks = verdict.marks
                if marks is not None and (len(marks) != len(facts) or set(marks) - set(MARKS)):
                    raise RuntimeError(f"marks {str(marks)[:60]} for {len(facts)} annotations")
                if self.soft and marks is not None and len(verdict.scores or ()) != len(marks):
                    raise RuntimeError(f"scores {str(verdict.scores)[:60]} for {len(marks)} marks")
            return verdicts
        except Exception as error:
            name = getattr(self.judge, "name", type(self.judge).__name__)
            fault = f"the judge {name!r} broke: {type(error).__name__}: {error}"
            return [Verdict(None, fault)] * len(texts)

    def _score(self, verdict: Verdict | None) -> float | None:
        if verdict is None:
            return None
        if verdict.marks is None:
            return 0.0 if verdict.by_response else self.lost
        if self.soft:
            return sum(verdict.scores) / len(verdict.scores)
        paid = verdict.marks.count("stated")
        if self.mode == "contradiction_aware":
            paid = max(0, paid - verdict.marks.count("contradicted"))
        return paid / len(verdict.marks)


def describe(verdict: Verdict | None) -> str:
    """A verdict in a few words, for logs: "stated absent", or why there is none."""
    if verdict is None:
        return "no annotations"
    return " ".join(verdict.marks) if verdict.marks is not None else f"none: {verdict.failure}"
