"""A prompt that many rows of a batch share is computed once. Used by the trainer; nothing depends on it but time.

GRPO asks each question G times, so that a batch shows one image and one prompt G times. This holds for models made as
Qwen2.5-VL (a `model` with a vision tower, under a language model's head), in rows with one image each. What comes out
is the same; gradients are, up to rounding.
"""

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.modeling_outputs import ModelOutput


class SharedPrompts:
    """Hooks on a policy; everything that they do not recognise goes the model's own way.

    Sampling: the first pass computes each distinct prompt once, then copies keys, values and states to its rows.
    Scoring (a call with `labels`, which are -100 on prompts): each distinct prompt is computed once, and the rest of
    every row attends to its keys and values; gradients flow back through them.

    Args:
        policy: its backbone must keep all states on one device until the backward pass: no FSDP, no checkpointing.
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
        ids, grids, cache = (
            inputs.get(k) for k in ("input_ids", "image_grid_thw", "past_key_values")
        )
        sampling = cache is not None and cache.get_seq_length() == 0
        begin = self._begin or (ids.shape[1] if sampling else 0)
        if not begin or grids is None or len(grids) != len(ids):
            return None
        mask, patches = (
            inputs["attention_mask"],
            inputs["pixel_values"].split(grids.prod(-1).tolist()),
        )
        prompts = torch.cat([ids[:, :begin], mask[:, :begin], grids], dim=1).tolist()
        keys = [(*p, _bits(image)) for p, image in zip(prompts, patches, strict=True)]
        number = {key: k for k, key in enumerate(dict.fromkeys(keys))}
        rows = [number[key] for key in keys]
        if len(number) == len(keys):
            return None
        first = [rows.index(k) for k in range(len(number))]
        asked = inputs | {
            "input_ids": ids[first, :begin],
            "attention_mask": mask[first, :begin],
            "mm_token_type_ids": inputs["mm_token_type_ids"][first, :begin],
            "image_grid_thw": grids[first],
            "pixel_values": torch.cat([patches[k] for k in first]),
        }
        if inputs.get("position_ids") is not None:
            asked["position_ids"] = inputs["position_ids"][:, first, :begin]
        if sampling:
            self._rows = rows
            return args, asked
        shown = backbone.forward(**asked | {"use_cache": True, "past_key_values": DynamicCache()})
        self._prompt_states = self._spread(backbone, shown, rows).last_hidden_state
        rest = {"input_ids": ids[:, begin:], "attention_mask": mask, "use_cache": True}
        positions = (mask.cumsum(-1) - 1 + backbone.rope_deltas)[:, begin:].expand(3, -1, -1)
        return args, rest | {"position_ids": positions, "past_key_values": shown.past_key_values}

    def _after(self, backbone: torch.nn.Module, _: tuple, output: ModelOutput) -> ModelOutput:
        if self._rows:
            self._spread(backbone, output, self._rows)
        if self._prompt_states is not None:
            whole = [self._prompt_states, output.last_hidden_state]
            output.last_hidden_state = torch.cat(whole, dim=1)
        return output

    def _spread(
        self, backbone: torch.nn.Module, output: ModelOutput, rows: list[int]
    ) -> ModelOutput:
        """From one row a prompt to the rows of the batch."""
        output.last_hidden_state = output.last_hidden_state[rows]
        output.past_key_values.batch_select_indices(torch.tensor(rows))
        # what positions in a figure leave out; the backbone keeps it for the tokens to come
        output.rope_deltas = backbone.rope_deltas = backbone.rope_deltas[rows]
        return output


def _bits(image: torch.Tensor) -> bytes:
    return image.detach().contiguous().view(torch.uint8).cpu().numpy().tobytes()
