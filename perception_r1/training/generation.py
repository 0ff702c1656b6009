"""A local policy answers: greedily or sampled, in batches. Used in notebooks 04 and 05."""

from collections.abc import Sequence

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel, ProcessorMixin

from perception_r1.problems.schema import Problem
from perception_r1.training.policy import prompt_of, with_image


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    problems: Sequence[Problem],
    *,
    prompts: Sequence[list[dict]] | None = None,
    prefix: Sequence[str] | None = None,
    batch_size: int = 64,
    max_new_tokens: int = 64,
    greedy: bool = True,
    seed: int | None = None,
    quiet: bool = False,
) -> list[str]:
    """One response for each problem, in batches of prompts of like length.

    Args:
        model: the policy.
        processor: its processor.
        problems: whose questions and images are given.
        prompts: conversations to use in place of the problems' own (`prompt_of`).
        prefix: how each response must begin; it is part of what is returned.
        batch_size: responses at a time.
        max_new_tokens: most tokens of a response, without its prefix.
        greedy: the likeliest token each time, or sample at temperature 1.
        seed: of the samples; the caller's random state is left as it was.
        quiet: no progress bar.
    """
    begin = prefix or [""] * len(problems)
    texts = [
        processor.apply_chat_template(with_image(ask, len(p.images)), add_generation_prompt=True)
        + start
        for p, ask, start in zip(problems, prompts or map(prompt_of, problems), begin, strict=True)
    ]
    order = sorted(range(len(texts)), key=lambda k: len(texts[k]))  # so that little is padded
    responses = [""] * len(texts)
    was_training = model.training
    model.eval()
    with torch.random.fork_rng(), tqdm(total=len(texts), desc="responses", disable=quiet) as bar:
        if seed is not None:
            torch.manual_seed(seed)
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            inputs = processor(
                text=[texts[k] for k in batch], images=[problems[k].open_images() for k in batch],
                padding=True, return_tensors="pt",
            ).to(model.device)  # fmt: skip
            out = model.generate(
                **inputs, max_new_tokens=max_new_tokens, do_sample=not greedy,
                repetition_penalty=1.0,
                **({} if greedy else {"temperature": 1.0, "top_k": 0, "top_p": 1.0}),
            )  # fmt: skip
            new = processor.batch_decode(
                out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
            )
            for k, response in zip(batch, new, strict=True):
                responses[k] = begin[k] + response
            bar.update(len(batch))
    model.train(was_training)
    return responses
