"""Policies with their processors: any vision-language checkpoint by name, or the embedded miniature. Used in 04 and 05.

The miniature is the paper's architecture, `Qwen2_5_VLForConditionalGeneration`, with about one million
parameters and a tokenizer made of the words of the embedded world. Whatever is loaded comes with safetensors
and without code of its own.
"""

import random
import shutil
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
)
from transformers.image_utils import make_flat_list_of_images
from transformers.models.qwen2_5_vl.processing_qwen2_5_vl import Qwen2_5_VLProcessor
from transformers.utils import is_torchvision_available

from perception_r1.annotation.pipeline import INSTRUCTION
from perception_r1.common.errors import InputError
from perception_r1.common.files import DATA, cannot_write
from perception_r1.problems.schema import IMAGE_MARK, Problem
from perception_r1.world import FAMILIES, WorldConfig, miniature_world
from perception_r1.world.cot import teach, write_question
from perception_r1.world.sketch import Sketch, Unlucky

MINIATURE = DATA / "miniature"  # the recorded base, known to `load_policy` as "miniature"
IMAGE_SIZE = miniature_world().image_size  # pixels, in both directions
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def prompt_of(problem: Problem) -> list[dict[str, str]]:
    """The conversation that asks a policy: question and instruction; images go beside it (TRL adds them)."""
    question = problem.problem.replace(IMAGE_MARK, "").strip()
    return [{"role": "user", "content": f"{question} {INSTRUCTION}"}]


def probe_prompt(side: str) -> list[dict[str, str]]:
    """The conversation that asks for one length, "AB", of the image; it is never rewarded."""
    return [{"role": "user", "content": f"What is the length of {side}?"}]


def with_image(prompt: list[dict], images: int = 1) -> list[dict]:
    """The conversation with places for its images before its first text, as TRL lays it out."""
    first, *rest = prompt
    text = {"type": "text", "text": first["content"]}
    return [{**first, "content": [{"type": "image"}] * images + [text]}, *rest]


# --- load and save ---------------------------------------------------------------------------------


def load_policy(
    name_or_path: str | Path,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    revision: str | None = None,
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Load a policy and its processor from the hub or from disk.

    Args:
        name_or_path: a folder, the hub's owner/name, or "miniature", the recorded base.
        dtype: of the weights, "float32", "bfloat16" or "float16".
        device: where the weights go.
        min_pixels: images with fewer pixels are enlarged; None for the checkpoint's own limit.
        max_pixels: images with more pixels are made smaller; None for the checkpoint's own limit.
        revision: branch, tag or commit on the hub.

    Raises:
        InputError: nothing there, no processor, no safetensors, or model and processor do not fit.
    """
    if dtype not in DTYPES:
        raise InputError(f"no dtype {dtype!r}; choose one of {', '.join(DTYPES)}")
    name = str(MINIATURE if name_or_path == "miniature" else name_or_path)
    if not Path(name).is_dir() and (Path(name_or_path).is_absolute() or name.count("/") != 1):
        raise InputError(f"no folder {name}; give a checkpoint's folder, or owner/name on the hub")
    processor = _load_processor(name, min_pixels, max_pixels, revision)
    try:
        model = AutoModelForImageTextToText.from_pretrained(
            name,
            dtype=DTYPES[dtype],
            use_safetensors=True,
            revision=revision,
            trust_remote_code=False,  # left out, transformers asks on a terminal
        )
    except (OSError, ValueError) as error:
        why = " ".join(str(error).split())[:200]
        remedy = (
            "it must be a vision-language model saved as safetensors (pickled weights are refused)"
        )
        raise InputError(f"cannot load the model of {name}: {why}; {remedy}") from error
    _check_fit(name, model, processor)
    return model.to(device).eval(), processor


def _load_processor(
    name: str, min_pixels: int | None, max_pixels: int | None, revision: str | None
) -> ProcessorMixin:
    """The stock processor of a checkpoint, or `ImageOnlyProcessor` if its files name that."""
    limits = {"min_pixels": min_pixels, "max_pixels": max_pixels}
    given = {key: value for key, value in limits.items() if value is not None}
    try:
        described, _ = ProcessorMixin.get_processor_dict(name, revision=revision)
        ours = described.get("processor_class") == ImageOnlyProcessor.__name__
        kind = ImageOnlyProcessor if ours else AutoProcessor
        processor = kind.from_pretrained(name, revision=revision, trust_remote_code=False, **given)
    except (ImportError, OSError, ValueError) as error:
        why = " ".join(str(error).split())[:120]
        remedy = "save it there with processor.save_pretrained"
        if not is_torchvision_available() and ("video" in why or "torchvision" in why):
            remedy = "it needs torchvision: pip install torchvision==0.28.0"
        raise InputError(f"no usable processor in {name} ({why}); {remedy}") from error
    if not isinstance(processor, ProcessorMixin) or not hasattr(processor, "image_processor"):
        raise InputError(
            f"{name} has no processor for images, only {type(processor).__name__}; "
            "copy the processor's files of the original checkpoint into it"
        )
    processor.tokenizer.padding_side = "left"  # completions begin where prompts end
    return processor


def _check_fit(name: str, model: PreTrainedModel, processor: ProcessorMixin) -> None:
    """Refuse a processor that marks images by another token than the model looks for."""
    config = model.config
    wanted = getattr(config, "image_token_id", None) or getattr(config, "image_token_index", None)
    token = getattr(processor, "image_token", None)
    found = processor.tokenizer.convert_tokens_to_ids(token) if token else None
    rows = model.get_input_embeddings().num_embeddings
    if wanted is not None and found != wanted:
        what = f"marks images by token {found} ({token}), the model by {wanted}"
    elif len(processor.tokenizer) > rows:
        what = f"has {len(processor.tokenizer)} tokens, the model {rows}"
    else:
        return
    raise InputError(f"the processor of {name} {what}; use the one the model was trained with")


def save_policy(model: PreTrainedModel, processor: ProcessorMixin, folder: str | Path) -> None:
    """Save both as one folder that `load_policy` reads, whole or not at all; an old one is replaced.

    Raises:
        InputError: the folder cannot be written; what was there is still there.
    """
    folder = Path(folder)
    part, old = (folder.with_name(f".{folder.name}.{end}") for end in ("part", "old"))
    try:
        for left in (part, old):  # by a run that was killed
            shutil.rmtree(left, ignore_errors=True)
        part.mkdir(parents=True)
        model.save_pretrained(part)
        processor.save_pretrained(part)
        if folder.exists():
            folder.replace(old)
        part.replace(folder)
    except OSError as error:
        if old.exists() and not folder.exists():
            old.replace(folder)
        raise InputError(cannot_write(folder, error)) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


# --- the miniature ---------------------------------------------------------------------------------


class ImageOnlyProcessor(Qwen2_5_VLProcessor):
    """Qwen2.5-VL's processor without videos, whose part cannot be built without torchvision."""

    def __init__(self, image_processor=None, tokenizer=None, chat_template=None):
        self.image_token = "<|image_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    def _process_images(self, images, **settings):
        """Patches of all images; equal ones, as in a group of rollouts, are made once."""
        flat = make_flat_list_of_images(images)
        keys = [(image.mode, image.size, image.tobytes()) for image in flat]
        first = {key: k for k, key in reversed(list(enumerate(keys)))}
        distinct = {key: place for place, key in enumerate(dict.fromkeys(keys))}
        made = self.image_processor([flat[first[key]] for key in distinct], **settings)
        grids = torch.as_tensor(made["image_grid_thw"])
        patches = torch.as_tensor(made["pixel_values"]).split(grids.prod(-1).tolist())
        places = [distinct[key] for key in keys]
        made["image_grid_thw"] = grids[places]
        made["pixel_values"] = torch.cat([patches[place] for place in places])
        marks = [self.replace_image_token(made, image_idx=k, **settings) for k in range(len(flat))]
        return made, marks

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


def new_miniature(seed: int) -> tuple[PreTrainedModel, ProcessorMixin]:
    """A miniature that has learnt nothing yet, with its processor; equal seeds give equal weights."""
    processor = _miniature_processor()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(_miniature_config(processor.tokenizer))
        # Larger weights than usual, or the small vision tower learns nothing for hundreds of steps.
        for name, weight in model.named_parameters():
            if weight.dim() >= 2:
                std = 0.08 if "visual" in name else 0.2 if "embed_tokens" in name else 0.05
                torch.nn.init.normal_(weight, std=0.05 if "patch_embed" in name else std)
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    return model.eval(), processor


def _miniature_config(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLConfig:
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


def _miniature_processor() -> ImageOnlyProcessor:
    """The tokenizer, the chat template, and an image processor for which white paper is 0 and ink 1."""
    image_processor = Qwen2VLImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE**2, "longest_edge": IMAGE_SIZE**2},
        image_mean=[1.0] * 3,
        image_std=[-1.0] * 3,
    )
    return ImageOnlyProcessor(image_processor, _miniature_tokenizer(), _CHAT_TEMPLATE)


def _miniature_tokenizer() -> PreTrainedTokenizerFast:
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
