"""A model's responses to a benchmark: read from a file, or generated, greedily, and kept as they come."""

import asyncio
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tqdm.auto import tqdm

from perception_r1.annotation.pipeline import INSTRUCTION
from perception_r1.common.chat import Chat, ChatError, Reply, Request, user_message
from perception_r1.common.checkpoints import append
from perception_r1.common.errors import InputError, some
from perception_r1.common.files import write_text
from perception_r1.evaluation.benchmarks import Benchmark, read_rows
from perception_r1.evaluation.our_rules import Item

FILE = "responses.jsonl"
Ask = Callable[[Sequence[Item]], Sequence[str | ChatError]]  # a response, or why there is none


def read_responses(path: Path, benchmark: Benchmark, items: Sequence[Item]) -> dict[str, str]:
    """Responses by id, one for each item, from a file of rows with `id` (or the benchmark's own column) and `response`.

    An empty response (or null) is one; a missing one is not.

    Raises:
        InputError: unreadable, a row without id or response, or ids that are missing, unknown or there twice.
    """
    responses: dict[str, str] = {}
    twice = []
    for number, row in enumerate(read_rows(path)):
        name, text = str(row.get("id", row.get(benchmark.id))), row.get("response", 0)
        if not isinstance(text, str | None):
            why = "no response; each row takes id and response, which is text, perhaps empty"
            raise InputError(f"{path}, row {number} (id {name}): {why}")
        if name in responses:
            twice.append(name)
        responses[name] = (text or "").encode("utf-8", "replace").decode()
    known = {item.id for item in items}
    for ids, fault in (
        (twice, "come more than once; keep one response each"),
        (responses.keys() - known, f"are not {benchmark.name}'s, like {items[0].id!r}"),
        (known - responses.keys(), "have no response; give it, or an empty one if there was none"),
    ):
        if ids:
            raise InputError(f"{path}: {len(ids)} ids ({some(ids)}) {fault}")
    return responses


# --- generation --------------------------------------------------------------------------------------


def generate_responses(
    items: Sequence[Item], load: Callable[[], Ask], out: Path, about: Mapping, batch_size: int
) -> dict[str, str]:
    """Ask about every item, append what comes to `out/responses.jsonl`, and go on from what stands there.

    Args:
        items: the questions.
        load: gives who answers; called only if a response is missing.
        out: folder of the evaluation.
        about: what decides the responses; a folder begun with something else is refused.
        batch_size: items asked at a time.

    Returns:
        The responses by id.

    Raises:
        InputError: other responses are there, or some items got none (the others are kept).
    """
    path = out / FILE
    made_by = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:12]
    responses = _kept(path, made_by)
    left = [item for item in items if item.id not in responses]
    ask = load() if left else None
    failed: dict[str, ChatError] = {}
    with tqdm(total=len(items), initial=len(responses), desc="responses", disable=None) as bar:
        for start in range(0, len(left), batch_size):
            batch = left[start : start + batch_size]
            answers = dict(zip((item.id for item in batch), ask(batch), strict=True))
            failed |= {k: error for k, error in answers.items() if isinstance(error, ChatError)}
            usable = {k: text for k, text in answers.items() if k not in failed}
            rows = [{"id": k, "response": text, "made_by": made_by} for k, text in usable.items()]
            append(path, "".join(json.dumps(row) + "\n" for row in rows))
            responses |= usable
            bar.update(len(batch))
            if len(failed) >= 2 * batch_size:  # whoever answers is gone
                break
    if failed:
        raise InputError(
            f"{len(responses)} of {len(items)} items have responses, kept in {path}; {some(failed)} failed: "
            f"{next(iter(failed.values()))}. The same command asks for the rest"
        )
    return responses


def _kept(path: Path, made_by: str) -> dict[str, str]:
    """What stands in a file, of each id the last; a line that a kill tore is taken off."""
    if not path.exists():
        return {}
    text = path.read_text(encoding="utf-8", errors="replace")
    if torn := text.rpartition("\n")[2]:
        write_text(path, text.removesuffix(torn))
    rows = list(read_rows(path))
    if any(row.get("made_by") != made_by for row in rows):
        why = "made in another way: by another model, of other questions, or with other settings"
        raise InputError(f"{path} holds responses {why}; take another folder for --out")
    return {row["id"]: row["response"] for row in rows}


def ask_policy(name: str, folder: Path, *, max_new_tokens: int) -> Ask:
    """A local checkpoint, or one on the hub, that answers greedily: on a GPU in bfloat16, else in float32.

    Raises:
        InputError: it cannot be loaded (see `policy.load_policy`).
    """
    import torch  # these take seconds, and scoring needs none of them

    from perception_r1.training.generation import generate
    from perception_r1.training.policy import load_policy

    device, dtype = "cpu", "float32"
    if torch.cuda.is_available():
        device, dtype = "cuda", "bfloat16"
    model, processor = load_policy(name, dtype=dtype, device=device)

    def ask(items: Sequence[Item]) -> list[str]:
        problems = [item.problem(folder) for item in items]
        return generate(
            model, processor, problems,
            batch_size=len(problems), max_new_tokens=max_new_tokens, quiet=True,
        )  # fmt: skip

    return ask


def ask_server(url: str, model: str, folder: Path, *, max_new_tokens: int) -> Ask:
    """Any OpenAI-compatible server that takes images, asked greedily."""
    sampling = {"temperature": 0, "max_tokens": max_new_tokens}
    chat = Chat(url, model, sampling=sampling, deadline=900, timeout=300)

    async def ask_all(items: Sequence[Item]) -> list[str | ChatError]:
        requests = [
            Request([user_message(f"{item.text} {INSTRUCTION}", *item.problem(folder).images)])
            for item in items
        ]
        async with chat:
            replies = await chat.complete_all(requests, label="")
        return [_text(reply) for reply in replies]

    return lambda items: asyncio.run(ask_all(items))


def _text(reply: Reply | ChatError) -> str | ChatError:
    """The text; an empty one is a response too, though no usable answer of a chat."""
    if isinstance(reply, Reply):
        return reply.text
    answers = reply.attempts if reply.reason == "unusable answer" else ()
    empty = [not answer.text.strip() and "empty" in answer.problem for answer in answers]
    return "" if empty and all(empty) else reply
