"""A problem with figures: one row of a dataset, checked (contract C4). Used in notebooks 02 to 05.

A `Problem` that exists is valid: text, tags and images were checked when it was made. A bad row is a
`DatasetError` that names the row (counted from 0, as pandas and `datasets` do), the column and the remedy.
"""

import io
import re
from collections.abc import Iterable

from PIL import Image, ImageOps
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from perception_r1.common.errors import InputError

IMAGE_MARK = "<image>"


class DatasetError(InputError):
    """A dataset cannot be used; the message names the row (counted from 0) and the column where it is in one."""

    def __init__(self, fault: str, remedy: str, row: int | None = None, column: str | None = None):
        named = {"row": row, "column": column}.items()
        place = ", ".join(f"{name} {value}" for name, value in named if value is not None)
        super().__init__(f"{place + ': ' if place else ''}{fault}; {remedy}")


def tag_annotations(annotations: Iterable[str]) -> str:
    r"""Number annotations as the authors do: `<info1>...</info1>\n<info2>...</info2>`.

    Raises:
        DatasetError: there is none, one is empty, or one holds an `<infoN>` tag itself.
    """
    items = [item.strip() for item in annotations]
    if not items:
        raise DatasetError("no annotation", f"{_AS_TAGGED}, or null for a problem not annotated")
    for k, item in enumerate(items, start=1):
        if not item or _TAG.search(item):
            flaw = f"annotation {k} is empty, or holds an <infoN> tag or half a character: {item!r}"
            raise DatasetError(flaw, "give plain text")
    return "\n".join(f"<info{k}>{item}</info{k}>" for k, item in enumerate(items, start=1))


def read_annotations(text: str) -> list[str]:
    """The annotations of one `visual_key_info` text; the inverse of `tag_annotations`.

    Raises:
        DatasetError: tags missing, not closed, nested, not numbered 1, 2, 3, ..., empty, or text outside them.
    """
    items = re.findall(r"<info\d+>(.*?)</info\d+>", text, re.DOTALL)
    if "".join(tag_annotations(items).split()) != "".join(text.split()):
        raise DatasetError(f"tags open, crossed or misnumbered in {text[:80]!r}", _AS_TAGGED)
    return [item.strip() for item in items]


_TAG = re.compile(r"<\s*/?\s*info\s*\d*\s*>|[\ud800-\udfff]", re.IGNORECASE)  # or half a character
_AS_TAGGED = "write <info1>...</info1>, <info2>...</info2>, one fact each"


class Problem(BaseModel):
    """One problem: a row of a dataset, checked.

    Attributes:
        id: unique in its dataset.
        split: "train", "dev", "test", ... or "" if unknown.
        problem: the question, with one `<image>` mark per image.
        images: encoded images (PNG where we wrote them); PIL images may be given and become PNG.
        answer: the gold answer as written, e.g. "2 \\sqrt { 221 }".
        visual_key_info: visual annotations, tagged; None where the problem has not been annotated.
        cot: a teacher's chain of thought, "" if none.
        text_facts: facts that stand in the question, as logic forms.
        gold_facts: facts that stand in the image, as logic forms; empty where unknown.
        needed_facts: those of the gold facts that the answer needs; empty where unknown.
        family: kind of scene, "" if unknown.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(min_length=1)
    split: str = ""
    problem: str
    images: tuple[bytes, ...] = Field(repr=False)
    answer: str
    visual_key_info: str | None = None
    cot: str = ""
    text_facts: tuple[str, ...] = ()
    gold_facts: tuple[str, ...] = ()
    needed_facts: tuple[str, ...] = ()
    family: str = ""

    @field_validator("problem", "answer")
    @classmethod
    def _not_empty(cls, text: str) -> str:
        if not text.replace(IMAGE_MARK, "").strip():
            raise ValueError("empty; fill it in, or leave the row out")
        return text

    @field_validator("images", mode="before")
    @classmethod
    def _readable(cls, images: object) -> object:
        if not isinstance(images, list | tuple) or not images:
            raise ValueError("no image; give a list of images, or leave the row out")
        return tuple(_encoded(image, k) for k, image in enumerate(images))

    @field_validator("visual_key_info")
    @classmethod
    def _tagged(cls, text: str | None) -> str | None:
        if text is not None:
            read_annotations(text)
        return text

    @model_validator(mode="after")
    def _fits_together(self) -> "Problem":
        texts = (self.id, self.problem, self.answer, self.cot, *self.text_facts, *self.gold_facts)
        "".join(texts).encode()  # half a character (a lone surrogate) is a ValueError
        marks = self.problem.count(IMAGE_MARK)
        if marks != len(self.images):
            there = f"{marks} {IMAGE_MARK} marks for {len(self.images)} images"
            raise ValueError(f"{there}; write one mark per image")
        return self

    @property
    def image(self) -> Image.Image:
        """The first image, decoded now."""
        return _seen(self.images[0])

    def open_images(self) -> list[Image.Image]:
        """All images, decoded now (a problem keeps only their bytes), in 8 bits, grey or RGB."""
        return [_seen(data) for data in self.images]

    @property
    def annotations(self) -> list[str]:
        """The visual annotations; empty where the problem has not been annotated."""
        return [] if self.visual_key_info is None else read_annotations(self.visual_key_info)

    def annotated(self, annotations: Iterable[str]) -> "Problem":
        """A copy with these annotations (none: not annotated).

        Raises:
            DatasetError: an annotation is empty or holds a tag.
        """
        items = list(annotations)
        tagged = tag_annotations(items) if items else None
        return self.model_copy(update={"visual_key_info": tagged})


def _seen(data: bytes) -> Image.Image:
    """An image as people see it: upright, and on white paper where it is transparent (else black)."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if image.mode.startswith("I"):  # 16 bits, which Pillow would cut off at 255
        image = image.convert("I").point(lambda value: value / 257).convert("L")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "L" else image.convert("RGB")


def _encoded(image: object, k: int) -> bytes:
    """One image as bytes that are known to decode; `k` names it in messages."""
    if isinstance(image, dict):  # as `datasets` stores it, {"bytes": ..., "path": ...}
        image = image.get("bytes")
    if not image or not isinstance(image, bytes | Image.Image):
        raise ValueError(f"image {k} has no bytes; embed the images in the file")
    try:
        if isinstance(image, Image.Image):
            buffer = io.BytesIO()
            image.save(buffer, format="PNG")
            image = buffer.getvalue()
        with Image.open(io.BytesIO(image)) as opened:
            opened.load()  # decodes every pixel, so that a truncated file is found now
    except Exception as error:  # Pillow's plugins raise many kinds (OSError, SyntaxError, ...)
        fault = f"image {k} is not a readable image ({type(error).__name__})"
        raise ValueError(f"{fault}; export it again as PNG or JPEG") from error
    return image
