"""A checkpoint that is Qwen2.5-VL in everything but sight: a real language model with an untrained vision tower.

    python tests/llm/join.py --gguf FILE --out DIR

FILE is Qwen2.5-Coder-0.5B-Instruct in 4 bits (Q4_K_M, Apache-2.0). It brings what a tiny random model lacks: 24
pretrained layers, a vocabulary of 151,936 with Qwen's control tokens, text that makes sense. DIR gets what a
download of Qwen2.5-VL has: safetensors in bfloat16, configuration, tokenizer, chat template and image processor. Needs
the extra "llm", 4 GiB of memory and two to four minutes.
"""

import argparse
import sys
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from perception_r1.common.files import sha256
from perception_r1.training.policy import ImageOnlyProcessor, save_policy

QWEN_SHA256 = "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32"
# Of the 3B and 7B, but for width (1280), heads (16), depth (32): a quarter of the layers look at the whole image, the
# others at windows of 112 pixels, as there; 80 numbers a head, as there.
VISION = {
    "depth": 16, "hidden_size": 720, "num_heads": 9, "intermediate_size": 1924,
    "fullatt_block_indexes": [3, 7, 11, 15], "window_size": 112, "patch_size": 14,
    "spatial_merge_size": 2, "temporal_patch_size": 2, "tokens_per_second": 2,
}  # fmt: skip
SHAPE = (  # of the language model, under the same names in both configurations
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "hidden_act",
    "bos_token_id", "eos_token_id",
)  # fmt: skip
# What time, height and width turn of the 32 pairs of a head; of 64 in the real ones it is 16, 24, 24.
SECTIONS = [8, 12, 12]
PIXELS = {"shortest_edge": 4 * 28 * 28, "longest_edge": 16384 * 28 * 28}
# The public format: a system message unless one is given, and control tokens around each image.
TEMPLATE = """\
{%- if messages[0].role != 'system' -%}
{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{%- endif -%}
{%- for message in messages -%}
{{ '<|im_start|>' + message.role + '\\n' }}
{%- if message.content is string -%}{{ message.content }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' -%}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}
{%- else -%}{{ part.text }}{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""


def join(gguf: Path, out: Path) -> None:
    """Write the checkpoint."""
    source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    language = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.bfloat16)
    text = {name: getattr(language.config, name) for name in SHAPE}
    text["rope_parameters"] = {**language.config.rope_parameters, "mrope_section": SECTIONS}
    # GGUF's vocabulary holds the control tokens for images, but its reader splits them up like words.
    names = [f"<|{name}|>" for name in ("image_pad", "video_pad", "vision_start", "vision_end")]
    tokenizer.add_tokens(names, special_tokens=True)
    image, video, start, end = tokenizer.convert_tokens_to_ids(names)
    config = Qwen2_5_VLConfig(
        text_config=text | {"tie_word_embeddings": True},
        vision_config=VISION | {"out_hidden_size": text["hidden_size"]},
        image_token_id=image, video_token_id=video, vision_start_token_id=start,
        vision_end_token_id=end, tie_word_embeddings=True, dtype="bfloat16",
    )  # fmt: skip
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(config).to(torch.bfloat16)
    model.model.language_model.load_state_dict(language.model.state_dict())
    model.tie_weights()  # as published; the file holds the head once more, rounded in another way
    tokenizer.eos_token, tokenizer.pad_token = "<|im_end|>", "<|endoftext|>"
    both = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    # As the real one's: it samples unless told otherwise, and punishes what was said before.
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=1e-6, repetition_penalty=1.05, eos_token_id=both,
        pad_token_id=both[1], bos_token_id=both[1],
    )  # fmt: skip
    processor = ImageOnlyProcessor(
        Qwen2VLImageProcessorPil(size=PIXELS), tokenizer, chat_template=TEMPLATE
    )
    save_policy(model, processor, out)
    parts = (model.num_parameters(), sum(p.numel() for p in model.model.visual.parameters()))
    print("{}: {:,} parameters, {:,} of them in the untrained vision tower".format(out, *parts))


def main(arguments: list[str]) -> int:
    """Join them, or say why not; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    given = parser.parse_args(arguments)
    if not given.gguf.is_file() or sha256(given.gguf) != QWEN_SHA256:
        fault = f"{given.gguf} is not Qwen2.5-Coder-0.5B-Instruct, Q4_K_M"
        print(f"error: {fault}; its sha256 must be {QWEN_SHA256}", file=sys.stderr)
        return 2
    join(given.gguf, given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
