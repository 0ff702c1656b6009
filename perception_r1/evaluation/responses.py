"""Responses of any model to problems: a checkpoint's, or a server's. Used by `evaluate` and `study where`."""

import asyncio
from collections.abc import Callable, Sequence
from operator import attrgetter

from perception_r1.annotation.pipeline import INSTRUCTION
from perception_r1.common.chat import Chat, ChatError, Request, user_message
from perception_r1.problems.schema import IMAGE_MARK, Problem

Ask = Callable[[Sequence[Problem]], Sequence[str | ChatError]]  # a response, or why there is none


def from_policy(name: str, **how: object) -> Ask:
    """A local checkpoint, or one on the hub: on a GPU in bfloat16, else in float32; `how` is for `generate`."""
    import torch  # these take seconds, and scoring needs none of them

    from perception_r1.training.generation import generate
    from perception_r1.training.policy import load_policy

    gpu = {"device": "cuda", "dtype": "bfloat16"} if torch.cuda.is_available() else {}
    policy = load_policy(name, **gpu)
    return lambda problems: generate(*policy, problems, **how)


def from_server(
    url: str, model: str, sampling: dict, samples: int = 1, label: str = "", **more: object
) -> Ask:
    """Any server that takes images.

    Args:
        url: its API's base.
        model: its name there.
        sampling: of every request.
        samples: how often each problem stands among the problems; its requests differ by their seed.
        label: of the progress bar; empty: none.
        more: for `Chat`.
    """
    chat = Chat(url, model, sampling=sampling, deadline=900, timeout=300, **more)

    async def ask_all(problems: Sequence[Problem]) -> list[str | ChatError]:
        requests = []
        for place, problem in enumerate(problems):
            text = f"{problem.problem.replace(IMAGE_MARK, '').strip()} {INSTRUCTION}"
            seed = {"seed": place % samples}  # equal requests would have one answer
            message = user_message(text, *problem.images)
            # an empty text is a response, too, though no usable answer of a chat
            requests.append(Request([message], sampling=seed, grade=attrgetter("text")))
        async with chat:
            return await chat.complete_all(requests, label=label)

    return lambda problems: asyncio.run(ask_all(problems))
