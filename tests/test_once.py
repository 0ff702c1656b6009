"""What is computed once comes out as if each row had been computed by itself."""

import random

import pytest
import torch
from transformers import DynamicCache

from perception_r1.training.policy import new_miniature, prompt_of, with_image
from perception_r1.training.shared_prompts import (
    ReadEachPromptOnce,
    RoomyLayer,
    make_room,
    see_each_image_once,
)
from perception_r1.world import make_problems, miniature_world


def ask(processor, problems):
    """A batch as TRL makes it, prompts padded on the left."""
    texts = [
        processor.apply_chat_template(with_image(prompt_of(p)), add_generation_prompt=True)
        for p in problems
    ]
    images = [p.open_images() for p in problems]
    return processor(text=texts, images=images, padding=True, return_tensors="pt")


def with_completions(asked, seed=0):
    """The batch with completions of different lengths behind it, padded on the right."""
    rng = random.Random(seed)
    rows, longest = len(asked["input_ids"]), 12
    ids = torch.tensor([[rng.randrange(100) for _ in range(longest)] for _ in range(rows)])
    mask = torch.tensor(
        [[1] * n + [0] * (longest - n) for n in (rng.randint(1, longest) for _ in range(rows))]
    )
    return dict(asked) | {
        "input_ids": torch.cat([asked["input_ids"], ids], dim=1),
        "attention_mask": torch.cat([asked["attention_mask"], mask], dim=1),
        "mm_token_type_ids": torch.cat([asked["mm_token_type_ids"], torch.zeros_like(ids)], dim=1),
    }


def scored(model, batch, begin):
    """States of the completions' tokens, and the gradients of a number that weighs each of them differently."""
    model.zero_grad()
    states = model.model(**batch, use_cache=False).last_hidden_state[:, begin - 1 :]
    shown = batch["attention_mask"][:, begin - 1 :, None]
    weights = torch.linspace(-1, 1, states.numel()).view_as(states)
    (states * weights * shown).sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return (states * shown).detach(), gradients


@pytest.fixture(scope="module")
def made():
    """Five problems, text-rich and image-only, so that prompts differ in length."""
    return make_problems(5, miniature_world(seed=100, text_rich=0.5), "train")


ORDERS = {
    "groups": [0, 0, 0, 1, 1, 1, 2, 2, 2],
    "mixed": [3, 0, 3, 1, 0, 4],
    "all one": [2, 2, 2, 2],
    "all different": [0, 1, 2, 3],
}


@pytest.mark.parametrize("order", ORDERS)
def test_scores_and_gradients_are_those_of_each_row_by_itself(made, order):
    problems = [made[k] for k in ORDERS[order]]
    plain, processor = new_miniature(0)
    asked = ask(processor, problems)
    begin, batch = asked["input_ids"].shape[1], with_completions(asked)
    states, gradients = scored(plain, batch, begin)
    model, _ = new_miniature(0)
    once, read = ReadEachPromptOnce(model), []
    model.model.language_model.register_forward_pre_hook(
        lambda _, args, given: read.append(given["inputs_embeds"].shape[:2]), with_kwargs=True
    )
    with once.up_to(begin):
        found, mine = scored(model, batch, begin)
    distinct, rows = len(set(ORDERS[order])), len(problems)
    whole = [(rows, begin + 12)]
    assert read == (whole if distinct == rows else [(distinct, begin), (rows, 12)])
    assert torch.allclose(found, states, atol=1e-4)
    assert set(mine) == set(gradients)
    for name, gradient in gradients.items():
        assert torch.allclose(mine[name], gradient, rtol=1e-3, atol=1e-5 * gradient.abs().max())


def test_one_question_about_two_figures_is_two_prompts(made):
    first, second = made[0], made[1].model_copy(update={"problem": made[0].problem})
    model, processor = new_miniature(0)
    once = ReadEachPromptOnce(model)
    asked = ask(processor, [first, second, first])
    begin, batch = asked["input_ids"].shape[1], with_completions(asked)
    with once.up_to(begin):
        found, _ = scored(model, batch, begin)
    expected, _ = scored(new_miniature(0)[0], batch, begin)
    assert torch.allclose(found, expected, atol=1e-4)
    assert not torch.allclose(found[0, 0], found[1, 0], atol=1e-2)


def test_outside_of_up_to_and_after_it_nothing_is_shared(made):
    model, processor = new_miniature(0)
    once, seen = ReadEachPromptOnce(model), []
    asked = with_completions(ask(processor, [made[0]] * 3))
    model.model.language_model.register_forward_pre_hook(
        lambda _, args, given: seen.append(len(given["inputs_embeds"])), with_kwargs=True
    )
    with pytest.raises(ZeroDivisionError), once.up_to(5):
        1 / 0  # noqa: B018
    model.model(**asked, use_cache=False)
    assert seen == [3]


@pytest.mark.parametrize("order", ORDERS)
def test_the_same_tokens_are_sampled(made, order):
    problems, tokens = [made[k] for k in ORDERS[order]], []
    for share in (False, True):
        model, processor = new_miniature(0)
        if share:
            see_each_image_once(model)
            ReadEachPromptOnce(model)
        torch.manual_seed(5)
        tokens.append(
            model.generate(
                **ask(processor, problems), max_new_tokens=80, min_new_tokens=70, do_sample=True,
                top_k=0,
            )
        )  # fmt: skip
    assert tokens[0].equal(tokens[1])


def test_two_prompts_of_other_lengths_in_a_row_keep_their_own_positions(made):
    """Generation after generation: the backbone's memory of positions is that of the last batch."""
    model, processor = new_miniature(0)
    ReadEachPromptOnce(model)
    for problems in ([made[0]] * 4, [made[3], made[3], made[1]]):
        asked = ask(processor, problems)
        found = model.generate(**asked, max_new_tokens=6, do_sample=False)
        fresh = new_miniature(0)[0].generate(**asked, max_new_tokens=6, do_sample=False)
        assert found.equal(fresh)


def test_a_roomy_cache_holds_what_the_usual_one_holds():
    rng, config = torch.Generator().manual_seed(0), new_miniature(0)[0].config.get_text_config()
    usual, roomy = DynamicCache(config=config), make_room(DynamicCache(config=config))
    assert {type(layer) for layer in roomy.layers} == {RoomyLayer} != {type(usual.layers[0])}
    for new in (7, 1, 1, 70, 1, 64):  # within the room, and over its edge
        for layer in range(len(roomy.layers)):
            keys, values = torch.randn(2, 3, 4, new, 8, generator=rng)
            told = (cache.update(keys, values, layer) for cache in (usual, roomy))
            for one, other in zip(*told, strict=True):
                assert one.equal(other)
        assert usual.get_seq_length() == roomy.get_seq_length()


def test_the_vision_tower_runs_once_for_equal_images_and_nothing_else_changes():
    images = [p.image for p in make_problems(3, miniature_world(seed=100), "train")]
    batch = [images[k] for k in (0, 1, 0, 2, 1, 0)]
    results, looks = [], []
    for once in (False, True):
        model, processor = new_miniature(0)
        made = processor.image_processor(batch, return_tensors="pt")
        tower = model.model.visual.blocks[0]
        tower.register_forward_pre_hook(lambda _, given: looks.append(len(given[0]) // 64))
        if once:
            see_each_image_once(model)
        seen = model.model.visual(made["pixel_values"], made["image_grid_thw"])
        parts = seen.pooler_output.split(16)
        sum((k + 1) * part.square().sum() for k, part in enumerate(parts)).backward()
        gradients = [p.grad for p in model.model.visual.parameters()]
        results.append((seen.pooler_output, seen.last_hidden_state, *gradients))
    assert looks == [6, 3]
    plain, once = results
    assert torch.equal(plain[0], once[0]) and torch.equal(plain[1], once[1])
    for one, other in zip(plain[2:], once[2:], strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-5 * one.abs().max())


def test_a_model_without_such_a_tower_is_left_as_it_is():
    model = torch.nn.Linear(2, 2)
    see_each_image_once(model)
    assert "forward" not in vars(model)
