"""What a group of rollouts has in common is computed once: the image, and the prompt. Used in notebook 04.

GRPO asks each question G times, so that a batch shows one image and one prompt G times. What comes out is the
same; gradients are, up to rounding.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer


def see_each_image_once(model: PreTrainedModel) -> None:
    """Make a Qwen-VL model run its vision tower once for equal images of a batch; other models stay as they are."""
    visual = getattr(getattr(model, "model", None), "visual", None)
    if not hasattr(visual, "spatial_merge_size"):
        return
    whole, merged = visual.forward, visual.spatial_merge_size**2

    @functools.wraps(whole)
    def forward(hidden_states: torch.Tensor, grid_thw: torch.Tensor, **more: object):
        keys = _images(hidden_states, grid_thw)
        first, place = _distinct(keys)
        if len(first) == len(keys):
            return whole(hidden_states, grid_thw, **more)
        sizes = grid_thw.prod(-1).tolist()
        patches = hidden_states.split(sizes)
        seen = whole(torch.cat([patches[k] for k in first]), grid_thw[first], **more)
        for name, share in (("last_hidden_state", 1), ("pooler_output", merged)):
            parts = seen[name].split([sizes[k] // share for k in first])
            seen[name] = torch.cat([parts[k] for k in place])
        return seen

    visual.forward = forward


class RoomyLayer(DynamicLayer):
    """A layer of a cache with room for tokens to come, where transformers copies all of it for each token.

    Not for training: what is written into the room has no gradient.
    """

    ROOM = 64  # tokens

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: object, **__: object
    ):
        """Append; returns all keys and all values, (rows, heads, tokens, width) each."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._rooms = [key_states[:, :, :0], value_states[:, :, :0]]
        begin = self.get_seq_length()
        end = begin + key_states.shape[2]
        for k, new in enumerate((key_states, value_states)):
            if end > self._rooms[k].shape[2]:
                rows, heads, _, width = new.shape
                wider = new.new_empty(rows, heads, end + self.ROOM, width)
                wider[:, :, :begin] = self._rooms[k][:, :, :begin]
                self._rooms[k] = wider
            self._rooms[k][:, :, begin:end] = new
        self.keys, self.values = (room[:, :, :end] for room in self._rooms)
        return self.keys, self.values


def make_room(cache: DynamicCache) -> DynamicCache:
    """The empty cache with layers that have room; layers of a kind of their own stay as they are."""
    cache.layers = [
        RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers
    ]
    return cache


class ReadEachPromptOnce:
    """Makes a Qwen2.5-VL model compute equal prompts of a batch once, where each row has one image.

    Sampling: the prompts' keys and values are computed once, then copied to all of their rows. Scoring, inside
    `up_to`: completions attend to the keys and values of the one prompt, and gradients flow back through them.
    Everything else goes the model's own way.

    Args:
        model: its backbone's `forward` is replaced.
    """

    def __init__(self, model: PreTrainedModel):
        self._backbone, self._whole = model.model, model.model.forward
        self._length: int | None = None
        model.model.forward = self._forward

    @contextmanager
    def up_to(self, length: int) -> Iterator[None]:
        """In here the first `length` columns of whatever the model is asked about are prompts."""
        self._length = length
        try:
            yield
        finally:
            self._length = None

    def _forward(self, input_ids=None, attention_mask=None, past_key_values=None, **more: object):
        grid, patches = more.get("image_grid_thw"), more.get("pixel_values")
        sampling = past_key_values is not None and past_key_values.get_seq_length() == 0
        length = self._length or (input_ids.shape[1] if sampling else None)
        asked = {"input_ids": input_ids, "attention_mask": attention_mask, **more}
        if length and patches is not None and len(grid) == len(input_ids):
            rows = torch.cat([input_ids[:, :length], attention_mask[:, :length]], dim=1).tolist()
            first, place = _distinct(
                list(zip(map(tuple, rows), _images(patches, grid), strict=True))
            )
            if len(first) < len(place):
                return self._together(length, first, place, past_key_values, asked)
        return self._whole(**asked, past_key_values=past_key_values)

    def _together(
        self, length: int, first: list[int], place: list[int], cache: DynamicCache | None, asked: dict
    ):  # fmt: skip
        """Row k begins with the prompt that stands in row `first[place[k]]`; what follows it is its own."""
        ids, mask, kinds = (asked[k] for k in ("input_ids", "attention_mask", "mm_token_type_ids"))
        patches = asked["pixel_values"].split(asked["image_grid_thw"].prod(-1).tolist())
        one_each = asked | {
            "input_ids": ids[first, :length], "attention_mask": mask[first, :length],
            "mm_token_type_ids": kinds[first, :length], "image_grid_thw": asked["image_grid_thw"][first],
            "pixel_values": torch.cat([patches[k] for k in first]),
            "use_cache": True, "past_key_values": DynamicCache(),
        }  # fmt: skip
        if asked.get("position_ids") is not None:
            one_each["position_ids"] = asked["position_ids"][:, first, :length]
        out = self._whole(**one_each)
        cache = DynamicCache() if cache is None else make_room(cache)
        for number, layer in enumerate(out.past_key_values.layers):
            cache.update(layer.keys[place], layer.values[place], number)
        # what positions in a figure leave out; the backbone keeps it for the tokens to come
        deltas = self._backbone.rope_deltas = self._backbone.rope_deltas[place]
        states = out.last_hidden_state[place]
        if length < ids.shape[1]:
            positions = (mask.cumsum(-1) - 1 + deltas)[:, length:].expand(3, -1, -1)
            rest = self._whole(
                input_ids=ids[:, length:], attention_mask=mask, position_ids=positions,
                past_key_values=cache, use_cache=True,
            )  # fmt: skip
            states = torch.cat([states, rest.last_hidden_state], dim=1)
        out.last_hidden_state, out.past_key_values, out.rope_deltas = states, cache, deltas
        return out


def _images(patches: torch.Tensor, grid: torch.Tensor) -> list[tuple]:
    """One key an image: its grid and its very pixels."""
    parts = patches.split(grid.prod(-1).tolist())
    bits = (p.detach().contiguous().view(torch.uint8).cpu().numpy().tobytes() for p in parts)
    return list(zip(map(tuple, grid.tolist()), bits, strict=True))


def _distinct(keys: list) -> tuple[list[int], list[int]]:
    """Where each distinct key stands first, and for each key the number of the distinct one it equals."""
    first = {key: k for k, key in reversed(list(enumerate(keys)))}
    number = {key: n for n, key in enumerate(dict.fromkeys(keys))}
    return [first[key] for key in number], [number[key] for key in keys]
