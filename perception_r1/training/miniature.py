"""The miniature's shape, tokenizer and image processor; `policy.new_miniature` puts them together.

It is the paper's architecture, `Qwen2_5_VLForConditionalGeneration`, with about one million parameters and a tokenizer
made of the words of the embedded world.
"""

import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen2_5_VLConfig,
    Qwen2VLImageProcessorPil,
)
from transformers.models.qwen2_5_vl.processing_qwen2_5_vl import Qwen2_5_VLProcessor

from perception_r1.annotation.pipeline import INSTRUCTION
from perception_r1.world import FAMILIES, WorldConfig, miniature_world
from perception_r1.world.cot import teach, write_question
from perception_r1.world.sketch import Sketch, Unlucky

IMAGE_SIZE = miniature_world().image_size  # pixels, in both directions


class ImageOnlyProcessor(Qwen2_5_VLProcessor):
    """Qwen2.5-VL's processor without videos, whose part cannot be built without torchvision."""

    def __init__(self, image_processor=None, tokenizer=None, chat_template=None):
        self.image_token = "<|image_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    @property
    def model_input_names(self) -> list[str]:
        """What the model takes: tokens, their kinds, patches, grids."""
        return [name for name in super().model_input_names if name != "second_per_grid_ts"]


_PAD, _UNKNOWN, _END = "<|endoftext|>", "<|unknown|>", "<|im_end|>"
_VISION = "<|vision_start|>", "<|image_pad|>", "<|vision_end|>"
_ROLES = "<|user|>", "<|assistant|>"
# Words carry the spaces around them, so that names of points and digits are the same token everywhere.
_PIECES = (
    r"</?[a-z]+>\n?|\\boxed\{| ?[A-Za-z]?[a-z]+ ?|[A-Z]|[0-9]| ?[^\sA-Za-z0-9][ \n]?|\s|[\s\S]"
)
_CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def miniature_config(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLConfig:
    """About one million parameters; an image is 64 patches and 16 tokens."""
    start, image, end = tokenizer.convert_tokens_to_ids(list(_VISION))
    text = {
        "vocab_size": len(tokenizer), "hidden_size": 128, "intermediate_size": 256,
        "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 4,
        "max_position_embeddings": 512, "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10.0, "mrope_section": [4, 6, 6]},
        "bos_token_id": None, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    vision = {
        "depth": 3, "hidden_size": 64, "intermediate_size": 128, "num_heads": 4, "patch_size": 14,
        "window_size": IMAGE_SIZE, "fullatt_block_indexes": [2], "out_hidden_size": 128,
    }  # fmt: skip
    return Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, tie_word_embeddings=True, image_token_id=image,
        video_token_id=-1, vision_start_token_id=start, vision_end_token_id=end,
    )  # fmt: skip


def miniature_processor() -> ImageOnlyProcessor:
    """The tokenizer, the chat template, and an image processor for which white paper is 0 and ink 1."""
    image_processor = Qwen2VLImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE**2, "longest_edge": IMAGE_SIZE**2},
        image_mean=[1.0] * 3,
        image_std=[-1.0] * 3,
    )
    return ImageOnlyProcessor(image_processor, _tokenizer(), _CHAT_TEMPLATE)


def _tokenizer() -> PreTrainedTokenizerFast:
    """Word by word, lossless; names of points letter by letter, numbers digit by digit."""
    split = pre_tokenizers.Split(Regex(_PIECES), behavior="isolated")
    words = {word for text in _world_texts() for word, _ in split.pre_tokenize_str(text)}
    characters = {chr(code) for code in range(32, 127)} | {"\n"}
    vocabulary = [_UNKNOWN, *sorted(words | characters)]
    model = models.WordLevel({word: k for k, word in enumerate(vocabulary)}, unk_token=_UNKNOWN)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer, tokenizer.decoder = split, decoders.Fuse()
    # The instruction never changes: one token, where it would be most of a prompt.
    tokenizer.add_tokens([AddedToken(INSTRUCTION, normalized=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token=_UNKNOWN, pad_token=_PAD, eos_token=_END,
        additional_special_tokens=[*_VISION, *_ROLES], padding_side="left",
        clean_up_tokenization_spaces=False,
    )  # fmt: skip


def _world_texts() -> list[str]:
    """Questions and chains of thought of every kind in the world, without their drawings; and probes."""
    rng, config = random.Random(0), WorldConfig()
    texts = ["What is the length of AB?"]
    for questions in FAMILIES.values():
        for build in questions.values():
            made = 0
            while made < 2:
                sketch = Sketch(rng, config)
                try:
                    question = build(sketch)
                except Unlucky:
                    continue
                for scene in sketch.finish():
                    texts += [
                        write_question(question, text_rich=True) + " ",  # the instruction follows
                        teach(question, scene, (), config, rng).cot,
                    ]
                    made += 1
    return texts
