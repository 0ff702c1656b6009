"""What a batch of rollouts would compute again and again is computed once. Only time depends on it. Notebook 04.

GRPO asks each question G times: a batch shows one image and one prompt G times (`SharedPrompts`). And transformers
copies all keys and values of a batch for each new token (`RoomyLayer`). What comes out is the same; gradients are, up
to rounding.
"""

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.modeling_outputs import ModelOutput


class RoomyLayer(DynamicLayer):
    """A layer of a cache with room for tokens to come; not for training: what is written into it has no gradient."""

    room: torch.Tensor | None = None  # keys and values, (2, rows, heads, tokens, width)

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_, **__):
        """Append; returns all keys and all values, (rows, heads, tokens, width) each."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        new = torch.stack([key_states, value_states])
        begin = self.get_seq_length()
        end = begin + new.shape[3]
        if self.room is None or self.room.shape[1] != new.shape[1] or self.room.shape[3] < end:
            self.room = new.new_empty(*new.shape[:3], end + 64, new.shape[4])
            if begin:
                self.room[:, :, :, :begin] = torch.stack([self.keys, self.values])
        self.room[:, :, :, begin:end] = new
        self.keys, self.values = self.room[:, :, :, :end]
        return self.keys, self.values


def make_room(cache: DynamicCache) -> DynamicCache:
    """The empty cache with layers that have room; layers of a kind of their own stay as they are."""
    cache.layers = [RoomyLayer() if type(old) is DynamicLayer else old for old in cache.layers]
    return cache


class SharedPrompts:
    """Hooks on a policy made as Qwen2.5-VL; all but rows with one image each goes the model's own way.

    Sampling: the first pass computes each distinct prompt once, then copies keys, values and states to its rows.
    Scoring (a call with `labels`, which are -100 on prompts): each distinct prompt is computed once, and the rest of
    every row attends to its keys and values; gradients flow back through them.

    Args:
        policy: it must keep all states on one device until the backward pass: no FSDP, no checkpointing.
    """

    def __init__(self, policy: PreTrainedModel):
        self._begin = 0  # of the completions; 0: not known
        self._rows: list[
            int
        ] = []  # for each row of a batch that samples: which distinct prompt it has
        self._prompt_states: torch.Tensor | None = None  # of a batch that is scored, in its rows
        policy.register_forward_pre_hook(self._note_begin, with_kwargs=True)
        policy.model.register_forward_pre_hook(self._before, with_kwargs=True)
        policy.model.register_forward_hook(self._after)

    def _note_begin(self, _: object, args: tuple, inputs: dict) -> None:
        labels = inputs.get("labels")
        self._begin = 0 if labels is None else int(labels.ne(-100).any(dim=0).int().argmax())

    def _before(self, backbone: torch.nn.Module, args: tuple, inputs: dict) -> tuple | None:
        """Replace what the backbone is asked by what has to be computed yet."""
        self._rows, self._prompt_states = [], None
        ids, mask, grids = (
            inputs.get(name) for name in ("input_ids", "attention_mask", "image_grid_thw")
        )
        cache = inputs.get("past_key_values")
        sampling = cache is not None and cache.get_seq_length() == 0
        begin = self._begin or (ids.shape[1] if sampling else 0)
        if not begin or grids is None or len(grids) != len(ids):
            return None
        patches = inputs["pixel_values"].split(grids.prod(-1).tolist())
        prompts = torch.cat([ids[:, :begin], mask[:, :begin], grids], dim=1).tolist()
        keys = [(*p, _bits(image)) for p, image in zip(prompts, patches, strict=True)]
        number = {key: k for k, key in enumerate(dict.fromkeys(keys))}
        if len(number) == len(keys):
            return None
        rows = [number[key] for key in keys]
        first = [rows.index(k) for k in range(len(number))]
        once = inputs | {
            "input_ids": ids[first, :begin],
            "attention_mask": mask[first, :begin],
            "mm_token_type_ids": inputs["mm_token_type_ids"][first, :begin],
            "image_grid_thw": grids[first],
            "pixel_values": torch.cat([patches[k] for k in first]),
        }
        if inputs.get("position_ids") is not None:
            once["position_ids"] = inputs["position_ids"][:, first, :begin]
        if sampling:
            self._rows = rows
            return args, once | {"past_key_values": make_room(cache)}
        shown = backbone.forward(**once | {"use_cache": True, "past_key_values": DynamicCache()})
        _spread(backbone, shown, rows)
        self._prompt_states = shown.last_hidden_state
        positions = (mask.cumsum(-1) - 1 + backbone.rope_deltas)[:, begin:].expand(3, -1, -1)
        rest = {"input_ids": ids[:, begin:], "attention_mask": mask, "position_ids": positions}
        return args, rest | {"past_key_values": shown.past_key_values, "use_cache": True}

    def _after(self, backbone: torch.nn.Module, _: tuple, output: ModelOutput) -> ModelOutput:
        if self._rows:
            _spread(backbone, output, self._rows)
        if self._prompt_states is not None:
            states = [self._prompt_states, output.last_hidden_state]
            output.last_hidden_state = torch.cat(states, dim=1)
        return output


def _spread(backbone: torch.nn.Module, output: ModelOutput, rows: list[int]) -> None:
    """From one row a prompt to the rows of the batch."""
    output.last_hidden_state = output.last_hidden_state[rows]
    output.past_key_values.batch_select_indices(torch.tensor(rows))
    # what positions in a figure leave out; the backbone keeps it for the tokens to come
    output.rope_deltas = backbone.rope_deltas = backbone.rope_deltas[rows]


def _bits(image: torch.Tensor) -> bytes:
    return image.detach().contiguous().view(torch.uint8).cpu().numpy().tobytes()
