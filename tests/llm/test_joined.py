"""The checkpoint of `join.py` says what its language model says, as two other readers of the file have it.

    PERCEPTION_R1_QWEN=FILE.gguf make test-llm

FILE is the one that `join.py` names; without it these are skipped. Some minutes and 6 GiB.
"""

import json
import os
import urllib.request
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from perception_r1.reward.gguf_server import GGUFServer
from perception_r1.training.generation import generate
from perception_r1.training.policy import load_policy
from perception_r1.world import make_problems, map_world
from tests.conftest import load_script

JOIN = load_script(Path(__file__).with_name("join.py"))
TEXTS = ("def add(a, b):", "The capital of France is", "The hypotenuse of the legs 3 and 4 is")


@pytest.fixture(scope="module")
def gguf():
    path = Path(os.environ.get("PERCEPTION_R1_QWEN", ""))
    if not path.is_file():
        pytest.skip("set PERCEPTION_R1_QWEN to the file of Qwen2.5-Coder-0.5B-Instruct, Q4_K_M")
    return path


@pytest.fixture(scope="module")
def joined(gguf, tmp_path_factory):
    out = tmp_path_factory.mktemp("joined") / "model"
    assert JOIN.main(["--gguf", str(gguf), "--out", str(out)]) == 0
    return load_policy(out)


def test_another_file_is_refused_in_one_line(tmp_path, capsys):
    (tmp_path / "other.gguf").write_bytes(b"GGUF")
    for path in (tmp_path / "other.gguf", tmp_path / "none.gguf"):
        assert JOIN.main(["--gguf", str(path), "--out", str(tmp_path / "out")]) == 2
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1 and "its sha256 must be 1d9614638d18" in said[0]
    assert not (tmp_path / "out").exists()


@torch.no_grad()
def test_without_images_it_is_the_language_model(joined, gguf):
    """By transformers' own class for it, with plain rotary positions; llama.cpp finds the first word likely, too."""
    model, tokenizer = joined[0], joined[1].tokenizer
    source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    alone = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    for weight in alone.parameters():
        weight.copy_(weight.bfloat16())  # as the checkpoint stores it
    alone.lm_head.weight = (
        alone.model.embed_tokens.weight
    )  # the file has it twice, rounded in two ways
    first = []
    for text in TEXTS:
        given = tokenizer(text, return_tensors="pt")
        ours, theirs = (m(**given).logits[0, -1] for m in (model, alone))
        assert torch.allclose(ours, theirs, atol=1e-3)
        first.append(tokenizer.decode(ours.argmax()))
        greedy = {"max_new_tokens": 12, "do_sample": False, "repetition_penalty": 1.0}
        assert (
            model.generate(**given, **greedy).tolist() == alone.generate(**given, **greedy).tolist()
        )
    with GGUFServer(gguf, context=512) as server:
        for text, word in zip(TEXTS, first, strict=True):
            body = {"prompt": text, "temperature": 0, "max_tokens": 1, "logprobs": 5}
            request = urllib.request.Request(
                f"{server.url}/completions",
                json.dumps(body).encode(),
                {"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=200) as answer:
                (content,) = json.load(answer)["choices"][0]["logprobs"]["content"]
            assert word in [likely["token"] for likely in content["top_logprobs"]]


def test_an_image_is_as_many_tokens_as_its_size_says(joined):
    model, processor = joined
    (problem,) = make_problems(1, map_world(seed=100), "test")
    figure = problem.open_images()[0]
    counts = []
    for size in ((56, 56), (280, 140), (112, 336)):
        text = processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "image"}]}], add_generation_prompt=True
        )
        ids = processor(text=[text], images=[figure.resize(size)])["input_ids"][0]
        counts.append(list(ids).count(model.config.image_token_id))
        assert counts[-1] == size[0] * size[1] // 28**2
    assert len(generate(model, processor, [problem], max_new_tokens=4, quiet=True)[0]) > 0
