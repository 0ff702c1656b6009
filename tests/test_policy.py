"""Policies: the miniature, what is saved and loaded, and what may not be loaded."""

import json
import re

import pytest
import torch
from transformers import AutoModelForImageTextToText
from trl.data_utils import prepare_multimodal_messages

from perception_r1.common.errors import InputError
from perception_r1.training import policy
from perception_r1.training.generation import generate
from perception_r1.training.policy import (
    ImageOnlyProcessor,
    load_policy,
    new_miniature,
    probe_prompt,
    prompt_of,
    save_policy,
)
from perception_r1.world import make_problems, map_world


@pytest.fixture(scope="module")
def miniature():
    return new_miniature(3)


@pytest.fixture(scope="module")
def problems():
    return make_problems(4, map_world(seed=100, shortcut=0.5), "dev")


@pytest.fixture
def saved(miniature, tmp_path):
    save_policy(*miniature, tmp_path / "policy")
    return tmp_path / "policy"


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def inputs_of(processor, problems):
    """As TRL makes them: conversations with images, padded on the left."""
    talks = [prepare_multimodal_messages(prompt_of(p), p.open_images()) for p in problems]
    return processor.apply_chat_template(
        talks, add_generation_prompt=True, tokenize=True, return_dict=True,
        processor_kwargs={"padding": True, "return_tensors": "pt"},
    )  # fmt: skip


@torch.no_grad()
def logits_of(model, processor, problems):
    return model(**inputs_of(processor, problems)).logits


def test_a_miniature_of_the_papers_architecture_by_its_seed(miniature):
    model, _ = miniature
    assert type(model).__name__ == "Qwen2_5_VLForConditionalGeneration"
    before = torch.random.get_rng_state()
    again, other = new_miniature(3)[0], new_miniature(4)[0]
    assert torch.equal(before, torch.random.get_rng_state())
    pairs = zip(model.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(p, q) for p, q in pairs)
    assert not torch.equal(other.get_input_embeddings().weight, again.get_input_embeddings().weight)


def test_save_and_load_give_identical_logits(miniature, saved, problems):
    expected = logits_of(*miniature, problems)
    for _ in range(2):
        model, processor = load_policy(saved)
        assert type(processor) is ImageOnlyProcessor
        assert model.dtype == torch.float32 and not model.training
        assert torch.equal(logits_of(model, processor, problems), expected)
        save_policy(model, processor, saved)  # over the old one
    pixels = inputs_of(processor, problems)["pixel_values"]  # white paper is 0, ink is positive
    assert pixels.median() == 0 and pixels.min() == 0 and 0.5 < pixels.max() <= 1


def test_every_text_of_the_map_survives_the_tokenizer(miniature):
    tokenizer = miniature[1].tokenizer
    dials = {"questions": ("sum", "even or odd", "remainder"), "shortcut": 0.5}
    for problem in make_problems(60, map_world(sides=8, seed=100, **dials)):
        for text in (prompt_of(problem)[0]["content"], problem.cot):
            tokens = tokenizer(text)["input_ids"]
            assert tokenizer.unk_token_id not in tokens
            assert tokenizer.decode(tokens) == text


def test_a_processor_of_another_model_is_named(saved, tmp_path):
    """A token that is another one, or none; a vocabulary that is too large; no template, or one for text alone."""
    original = {path.name: path.read_bytes() for path in saved.iterdir()}
    config, template = json.loads(original["config.json"]), saved / "chat_template.jinja"
    tokens = json.loads(original["tokenizer.json"])
    tokens["added_tokens"] = [t for t in tokens["added_tokens"] if t["content"] != "<|image_pad|>"]
    tokens["model"]["vocab"]["<|image_pad|>"] = 253  # a word among words, as GGUF files have it
    extra = json.loads(original["tokenizer_config.json"])["extra_special_tokens"]
    fewer = [token for token in extra if token != "<|image_pad|>"]

    def a_mere_word():
        (saved / "tokenizer.json").write_text(json.dumps(tokens))
        edit(saved / "tokenizer_config.json", extra_special_tokens=fewer)

    text = config["text_config"]
    for words, break_it in (
        ("reads <|image_pad|> as [253], the model as 9", lambda: edit(saved / "config.json", image_token_id=9)),
        ("has 257 tokens, the model 250", lambda: edit(saved / "config.json", text_config=text | {"vocab_size": 250})),
        ("no chat template that takes images", template.unlink),
        ("no chat template that takes images", lambda: template.write_text("{{ messages[0].content + '!' }}")),
        ("leaves images out", lambda: template.write_text("{{ messages[0].content[-1].text }}")),
        ("the model as 253", a_mere_word),
    ):  # fmt: skip
        break_it()
        with pytest.raises(InputError, match=f"not its model's: .*{re.escape(words)}.*; take conf"):
            load_policy(saved)
        for name, content in original.items():
            (saved / name).write_bytes(content)
    load_policy(saved)
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(InputError, match="x.gguf is a file; a policy is a folder"):
        load_policy(tmp_path / "x.gguf")


def test_a_stock_like_checkpoint_loads_through_the_same_door(miniature, tmp_path, problems):
    AutoModelForImageTextToText.from_config(miniature[0].config).save_pretrained(tmp_path)
    miniature[1].save_pretrained(tmp_path)
    model, processor = load_policy(str(tmp_path), dtype="bfloat16", max_pixels=56 * 56)
    assert model.dtype == torch.bfloat16
    assert inputs_of(processor, problems)["image_grid_thw"].tolist() == [[1, 4, 4]] * 4
    processor.tokenizer.padding_side = "right"
    processor.save_pretrained(tmp_path)
    assert load_policy(tmp_path)[1].tokenizer.padding_side == "left"


def test_what_cannot_be_loaded_is_named(miniature, tmp_path):
    with pytest.raises(InputError, match="no folder .*nowhere"):
        load_policy(tmp_path / "nowhere")
    miniature[0].save_pretrained(tmp_path / "bare")
    with pytest.raises(InputError, match="no usable processor"):
        load_policy(tmp_path / "bare")
    miniature[1].save_pretrained(tmp_path / "bare")
    weights = tmp_path / "bare" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])  # a download that broke off
    with pytest.raises(InputError, match="cannot load the model .*bare.* must be a whole"):
        load_policy(tmp_path / "bare")


@pytest.mark.skipif(policy.is_torchvision_available(), reason="torchvision is installed")
def test_the_stock_processor_needs_torchvision(saved):
    edit(saved / "processor_config.json", processor_class="Qwen2_5_VLProcessor")
    with pytest.raises(InputError, match=r"needs torchvision: pip install"):
        load_policy(saved)


def test_code_of_a_checkpoint_is_not_even_asked_about(saved, monkeypatch, tmp_path):
    """Without trust_remote_code=False transformers asks on a terminal, and waits."""
    (saved / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    models = dict.fromkeys(("AutoConfig", "AutoModelForImageTextToText"), "evil.E")
    edit(saved / "config.json", auto_map=models)
    edit(saved / "processor_config.json", auto_map={"AutoProcessor": "evil.E"})
    edit(saved / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.E", None]})
    load_policy(saved)
    edit(saved / "tokenizer_config.json", tokenizer_class="Unknown")
    edit(saved / "config.json", model_type="unknown")
    with pytest.raises(InputError, match="trust_remote_code|custom code|unknown"):
        load_policy(saved)
    assert not (tmp_path / "ran").exists()


def test_pickled_weights_are_refused(miniature, saved):
    (saved / "model.safetensors").unlink()
    torch.save(miniature[0].state_dict(), saved / "pytorch_model.bin")
    with pytest.raises(InputError, match="safetensors"):
        load_policy(saved)


def test_generation_is_repeatable_and_keeps_its_prefix():
    small, problems = new_miniature(0), make_problems(6, map_world(seed=100), "test")
    short = {"batch_size": 4, "max_new_tokens": 5, "quiet": True}
    torch.manual_seed(7)
    sampled = [generate(*small, problems, greedy=False, seed=s, **short) for s in (1, 1, 2)]
    state = torch.random.get_rng_state()
    assert sampled[0] == sampled[1] != sampled[2]
    assert torch.equal(state, torch.manual_seed(7).get_state())
    begun = generate(*small, problems, prefix=[f"{k} + " for k in range(6)], **short)
    assert [text[:4] for text in begun] == [f"{k} + " for k in range(6)]
    assert len(generate(*small, problems, prompts=[probe_prompt("AB")] * 6, **short)) == 6


def test_responses_come_in_the_order_of_the_problems():
    small = load_policy("miniature")
    problems = make_problems(12, map_world(seed=100), "test")
    alone = [generate(*small, [p], quiet=True)[0] for p in problems]
    assert generate(*small, problems, batch_size=5, quiet=True) == alone
