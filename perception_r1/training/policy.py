"""Policies with their processors: any vision-language checkpoint by name, or the embedded miniature. Used in 04 and 05.

Whatever is loaded comes with safetensors and without code of its own.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedModel,
    ProcessorMixin,
    Qwen2_5_VLForConditionalGeneration,
)
from transformers.models.qwen2_5_vl.processing_qwen2_5_vl import Qwen2_5_VLProcessor
from transformers.utils import is_torchvision_available

from perception_r1.annotation.pipeline import INSTRUCTION
from perception_r1.common.checkpoints import whole_folder
from perception_r1.common.errors import InputError
from perception_r1.common.files import DATA, sha256
from perception_r1.problems.schema import IMAGE_MARK, Problem
from perception_r1.world import map_world

IMAGE_SIZE = map_world().image_size  # of the miniature, in pixels, in both directions
MINIATURE = DATA / "miniature" / "four"  # the recorded base, known to `load_policy` as "miniature"


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


class ImageOnlyProcessor(Qwen2_5_VLProcessor):
    """Qwen2.5-VL's processor without videos, whose part cannot be built without torchvision."""

    def __init__(self, image_processor=None, tokenizer=None, chat_template=None):
        self.image_token = "<|image_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)


# --- load and save ---------------------------------------------------------------------------------


def load_policy(
    name_or_path: str | Path,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    min_pixels: int | None = None,
    max_pixels: int | None = None,
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Load a policy and its processor from the hub or from disk.

    Args:
        name_or_path: a folder, the hub's owner/name, or "miniature", the recorded base.
        dtype: of the weights, by its name in torch.
        device: where the weights go.
        min_pixels: images with fewer pixels are enlarged; None for the checkpoint's own limit.
        max_pixels: images with more pixels are made smaller; None for the checkpoint's own limit.

    Raises:
        InputError: nothing there, no safetensors, no processor, or one that is not the model's.
    """
    name = str(MINIATURE if name_or_path == "miniature" else name_or_path)
    if Path(name).is_file():  # GGUF, most often, which is for judges
        raise InputError(f"{name} is a file; a policy is a folder with safetensors and a processor")
    if not Path(name).is_dir() and (Path(name_or_path).is_absolute() or name.count("/") != 1):
        raise InputError(f"no folder {name}; give a checkpoint's folder, or owner/name on the hub")
    processor = load_processor(name, min_pixels, max_pixels)
    try:
        model = AutoModelForImageTextToText.from_pretrained(
            name,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,  # left out, transformers asks on a terminal
        )
    except (OSError, ValueError, SafetensorError) as error:  # the last: half a download
        raise InputError(
            f"cannot load the model of {name}: {' '.join(str(error).split())[:200]}; it must be a whole "
            "vision-language model saved as safetensors (pickled weights are refused)"
        ) from error
    return model.to(device).eval(), processor


def load_processor(
    name: str,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
) -> ProcessorMixin:
    """The stock processor of a checkpoint, or `ImageOnlyProcessor` if its files name that; see `load_policy`.

    Raises:
        InputError: there is none for images, it needs a package that is not installed, or it is not the model's.
    """
    limits = {"min_pixels": min_pixels, "max_pixels": max_pixels}
    given = {key: value for key, value in limits.items() if value is not None}
    try:
        described, _ = ProcessorMixin.get_processor_dict(name)
        ours = described.get("processor_class") == ImageOnlyProcessor.__name__
        kind = ImageOnlyProcessor if ours else AutoProcessor
        processor = kind.from_pretrained(name, trust_remote_code=False, **given)
        processor.tokenizer.padding_side = "left"  # completions begin where prompts end
    except (AttributeError, ImportError, OSError, ValueError) as error:  # a bare tokenizer has none
        why = " ".join(str(error).split())[:120]
        remedy = "save it there with processor.save_pretrained"
        if not is_torchvision_available() and ("video" in why or "torchvision" in why):
            remedy = "it needs torchvision: pip install torchvision==0.28.0"
        raise InputError(f"no usable processor in {name} ({why}); {remedy}") from error
    if fault := _misfit(processor, name):
        remedy = "take configuration, tokenizer, chat template and processor from one checkpoint"
        raise InputError(f"the processor in {name} is not its model's: {fault}; {remedy}")
    return processor


def _misfit(processor: ProcessorMixin, name: str) -> str:
    """Why a model would not understand what its processor gives it; empty if it would."""
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError):  # an adapter has none; for what else is wrong the model says it
        return ""
    # not every architecture says which token is an image
    token, mark = getattr(config, "image_token_id", None), getattr(processor, "image_token", None)
    read = processor.tokenizer.encode(mark or "", add_special_tokens=False)
    if token is not None and mark and read != [token]:
        return f"its tokenizer reads {mark} as {read}, the model as {token}"
    if len(processor.tokenizer) > (rows := config.get_text_config().vocab_size):
        return f"the tokenizer has {len(processor.tokenizer):,} tokens, the model {rows:,}"
    talk = [{"role": "user", "content": "?"}]
    try:
        bare, shown = (processor.apply_chat_template(with_image(talk, n)) for n in (0, 1))
    except Exception as error:  # there is none, or one for text alone: a template is a program
        return f"no chat template that takes images ({' '.join(str(error).split())[:120]})"
    return "" if bare != shown else "its chat template leaves images out"


def weights_digest(name_or_path: str | Path) -> str:
    """What tells one base from another: the digests of a folder's weights, or the name of one on the hub."""
    folder = MINIATURE if str(name_or_path) == "miniature" else Path(name_or_path)
    digests = [str(sha256(file)) for file in sorted(folder.glob("*.safetensors"))]
    return " ".join(digests) or str(name_or_path)


def save_policy(model: PreTrainedModel, processor: ProcessorMixin, folder: str | Path) -> None:
    """Save both as one folder that `load_policy` reads, whole or not at all; an old one is replaced.

    Raises:
        InputError: the folder cannot be written; what was there is still there.
    """
    with whole_folder(Path(folder)) as part:
        model.save_pretrained(part)
        processor.save_pretrained(part)


def new_miniature(seed: int) -> tuple[PreTrainedModel, ProcessorMixin]:
    """A miniature that has learnt nothing yet, of the recorded base's shape and with its tokenizer.

    It is the paper's architecture with about one million parameters; an image is 64 patches and 16 tokens, white paper
    is 0 and ink 1. Words are tokens. Equal seeds give equal weights.
    """
    processor = load_processor(str(MINIATURE))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(AutoConfig.from_pretrained(MINIATURE))
        # Larger weights than usual, or the small vision tower learns nothing for hundreds of steps.
        for name, weight in model.named_parameters():
            if weight.dim() >= 2:
                std = 0.08 if "visual" in name else 0.2 if "embed_tokens" in name else 0.05
                torch.nn.init.normal_(weight, std=0.05 if "patch_embed" in name else std)
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    return model.eval(), processor
