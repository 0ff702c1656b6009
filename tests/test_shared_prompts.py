"""What is computed once comes out as if each row had been computed by itself."""

import random

import pytest
import torch

from perception_r1.common.settings import make_settings
from perception_r1.training import data
from perception_r1.training.configuration import grpo_config
from perception_r1.training.policy import new_miniature, prompt_of, with_image
from perception_r1.training.shared_prompts import SharedPrompts
from perception_r1.training.trainer import PerceptionGRPOTrainer
from perception_r1.world import make_problems, map_world
from tests.runs import TABLE


def prompts(processor, problems):
    """A batch as TRL makes it, prompts padded on the left."""
    texts = [
        processor.apply_chat_template(with_image(prompt_of(p)), add_generation_prompt=True)
        for p in problems
    ]
    images = [p.open_images() for p in problems]
    return processor(text=texts, images=images, padding=True, return_tensors="pt")


def with_completions(batch, seed=0):
    """The batch with completions of different lengths behind it, padded on the right, and TRL's labels."""
    rng = random.Random(seed)
    rows, longest, begin = len(batch["input_ids"]), 12, batch["input_ids"].shape[1]
    ids = torch.tensor([[rng.randrange(100) for _ in range(longest)] for _ in range(rows)])
    lengths = [rng.randint(1, longest) for _ in range(rows)]
    mask = torch.tensor([[1] * n + [0] * (longest - n) for n in lengths])
    whole = dict(batch) | {
        "input_ids": torch.cat([batch["input_ids"], ids], dim=1),
        "attention_mask": torch.cat([batch["attention_mask"], mask], dim=1),
        "mm_token_type_ids": torch.cat([batch["mm_token_type_ids"], torch.zeros_like(ids)], dim=1),
    }
    labels = whole["input_ids"].masked_fill(whole["attention_mask"] == 0, -100)
    labels[:, :begin] = -100
    return whole, labels


def scored(model, batch):
    """Logits of the completions, asked with labels as TRL asks, and gradients of a weighted sum."""
    whole, labels = with_completions(batch)
    model.zero_grad()
    found = model(**whole, labels=labels).logits[:, :-1]
    shown = (labels != -100)[:, 1:, None]
    weights = torch.linspace(-1, 1, found.numel()).view_as(found)
    (found * weights).masked_fill(~shown, 0).sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return found.detach().masked_fill(~shown, 0), gradients


def rows_read(model):
    """A list that gets rows and columns of each pass through the language model."""
    read = []
    model.model.language_model.register_forward_pre_hook(
        lambda _, args, given: read.append(tuple(given["inputs_embeds"].shape[:2])),
        with_kwargs=True,
    )
    return read


@pytest.fixture(scope="module")
def made():
    """Five problems, with and without a shortcut, so that prompts differ in length; and the first of another figure."""
    five = make_problems(5, map_world(seed=100, shortcut=0.5), "train")
    return [*five, five[1].model_copy(update={"problem": five[0].problem})]


ORDERS = {
    "groups": [0, 0, 0, 1, 1, 1, 2, 2, 2],
    "mixed": [3, 0, 3, 1, 0, 4],
    "all one": [2, 2, 2, 2],
    "one question, two figures": [0, 5, 0],
    "all different": [0, 1, 2, 3],
}


@pytest.mark.parametrize("order", ORDERS)
def test_scores_and_gradients_are_those_of_each_row_by_itself(made, order):
    plain, processor = new_miniature(0)
    batch = prompts(processor, [made[k] for k in ORDERS[order]])
    expected, gradients = scored(plain, batch)
    model, _ = new_miniature(0)
    SharedPrompts(model)
    read = rows_read(model)
    found, mine = scored(model, batch)
    distinct, rows, begin = len(set(ORDERS[order])), *batch["input_ids"].shape
    assert read == ([(rows, begin + 12)] if distinct == rows else [(distinct, begin), (rows, 12)])
    assert torch.allclose(found, expected, atol=1e-3)
    assert set(mine) == set(gradients)
    for name, gradient in gradients.items():
        assert torch.allclose(mine[name], gradient, rtol=1e-3, atol=1e-5 * gradient.abs().max())


def test_without_labels_nothing_is_shared(made):
    model, processor = new_miniature(0)
    SharedPrompts(model)
    batch = prompts(processor, [made[0]] * 3)
    scored(model, batch)
    read = rows_read(model)
    whole, _ = with_completions(batch)
    model(**whole)
    assert [rows for rows, _ in read] == [3]


def test_the_same_tokens_are_sampled_generation_after_generation(made):
    """The backbone's memory of positions is that of the last batch."""
    model, processor = new_miniature(0)
    SharedPrompts(model)
    for order in ORDERS.values():
        batch = prompts(processor, [made[k] for k in order])
        tokens = []
        for sampler in (model, new_miniature(0)[0]):
            torch.manual_seed(5)
            lengths = {"max_new_tokens": 12, "min_new_tokens": 10}
            tokens.append(sampler.generate(**batch, **lengths, do_sample=True, top_k=0))
        assert tokens[0].equal(tokens[1])


def test_the_trainer_shares_while_it_samples_and_while_it_scores(made, tmp_path):
    """Two prompts of four responses in two micro-batches."""
    model, processor = new_miniature(0)
    settings = make_settings({**TABLE, "model": "x", "max_steps": 1}, "test")
    rows, _ = data.training_rows(made[:2], settings, processor)
    grpo = PerceptionGRPOTrainer(
        model=model, processing_class=processor, train_dataset=rows,
        args=grpo_config(settings, tmp_path, save_strategy="no"),
        reward_funcs=[lambda completions, **_: [float(k % 2) for k in range(len(completions))]],
    )  # fmt: skip
    read = rows_read(model)
    grpo.train()
    sampling, scoring = read[0][0], [rows for rows, columns in read if columns > 1][1:]
    assert sampling == 2  # distinct prompts
    assert all(one <= 2 for one in scoring[::2]) and len(scoring) == 4
