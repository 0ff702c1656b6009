"""What a base of the map is taught, lesson by lesson. Used by `make.py`.

1. eyes: the vision tower makes of each cell of a figure the embedding of its character, and a code of its place;
2. sums: text alone, from stated facts to the answer, for every form of question;
3. answers: whole chains of thought about figures, but for the lengths in them; the eyes rest from here on;
4. reading: the lengths, too, until they are read right as often as wanted.

Real models come with trained eyes and a trained language model, and are then joined; so does this one.
"""

import functools
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm
from transformers import PreTrainedModel, ProcessorMixin

from perception_r1.evaluation.admission import THINK, stated_text
from perception_r1.facts import parse
from perception_r1.problems.schema import Problem
from perception_r1.training.policy import IMAGE_SIZE, probe_prompt, prompt_of, with_image
from perception_r1.world import WorldProblem, draw
from perception_r1.world.reckon import added
from perception_r1.world.scene import value_of

END = "<|im_end|>"  # the token after a response
IGNORE = -100  # a label without loss
TOKENS_A_SIDE = 4  # image tokens in each direction
GRID = 2 * TOKENS_A_SIDE  # patches in each direction
DIGITS = "23456789"  # the lengths that can be taught


@dataclass(frozen=True)
class Example:
    """A training sequence: token ids, labels of the same length, and what the eyes make of its image, if any."""

    tokens: list[int]
    labels: list[int]
    image: torch.Tensor | None = None


@dataclass
class Pupil:
    """A miniature at school, and the log of its lessons."""

    model: PreTrainedModel
    processor: ProcessorMixin
    rng: random.Random
    log: list[dict] = field(default_factory=list)
    start: float = field(default_factory=time.perf_counter)

    @functools.cached_property
    def digits(self) -> set[int]:
        """Token ids of the lengths that can be taught."""
        return {self.tokens(digit)[0] for digit in DIGITS}

    def patches(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Images as the eyes take them, all of one size: (images x 64, pixels of a patch)."""
        return self.processor.image_processor(images, return_tensors="pt")["pixel_values"]

    def look(self, patches: torch.Tensor) -> torch.Tensor:
        """What the eyes make of images: a vector for each cell, (images, 16, width)."""
        grid = torch.tensor([[1, GRID, GRID]]).repeat(len(patches) // GRID**2, 1)
        return torch.stack(self.model.model.get_image_features(patches, grid).pooler_output)

    def tokens(self, text: str) -> list[int]:
        """Token ids of a text."""
        return self.processor.tokenizer(text)["input_ids"]

    def prompt_tokens(self, prompt: list[dict], image: bool) -> list[int]:
        """Token ids of a conversation up to where the answer begins."""
        shown = with_image(prompt) if image else prompt
        text = self.processor.apply_chat_template(shown, add_generation_prompt=True)
        mark = self.processor.image_token
        return self.tokens(text.replace(mark, mark * TOKENS_A_SIDE**2))

    def logits(self, examples: Sequence[Example]) -> tuple[torch.Tensor, torch.Tensor]:
        """The language model's logits (tokens, vocabulary) where a label follows, and the labels; the eyes rest."""
        pad = self.processor.tokenizer.pad_token_id
        ids = _padded([e.tokens for e in examples], pad)
        labels = _padded([e.labels for e in examples], IGNORE)
        mask = _padded([[1] * len(e.tokens) for e in examples], 0)
        seen = [e.image for e in examples if e.image is not None]
        shown = ids == self.processor.image_token_id
        backbone = self.model.model
        words = backbone.get_input_embeddings()(ids)
        grid = torch.tensor([[1, GRID, GRID]]).repeat(len(seen), 1) if seen else None
        if seen:
            words = words.masked_scatter(shown[..., None], torch.stack(seen))
        about = {"image_grid_thw": grid, "attention_mask": mask}
        places, _ = backbone.get_rope_index(ids, shown.long(), **about)
        states = backbone.language_model(
            inputs_embeds=words, position_ids=places, attention_mask=mask, use_cache=False
        ).last_hidden_state[:, :-1]
        counted = labels[:, 1:] != IGNORE
        return self.model.lm_head(states[counted]), labels[:, 1:][counted]

    def loss(self, examples: Sequence[Example]) -> torch.Tensor:
        """Mean cross entropy of the labelled tokens."""
        return cross_entropy(*self.logits(examples))

    @torch.no_grad()
    def right(self, examples: Sequence[Example]) -> tuple[float, float]:
        """Mean probability of a labelled token, and the share of examples whose every label is the likeliest token."""
        logits, labels = self.logits(examples)
        sampled = logits.softmax(-1).gather(-1, labels[:, None])
        lengths = [sum(label != IGNORE for label in e.labels[1:]) for e in examples]
        whole = [hit.all().item() for hit in (logits.argmax(-1) == labels).split(lengths)]
        return sampled.mean().item(), sum(whole) / len(whole)

    def learn(
        self, name: str, limit: int, rate: float, every: int, loss: Callable[[], torch.Tensor],
        targets: Callable[[], dict[str, tuple[float, float]]],
    ) -> None:  # fmt: skip
        """One lesson: AdamW steps on `loss()` until `targets()`, {measure: (value, wanted)}, are all met.

        They are looked at every so many steps.
        """
        optimiser = torch.optim.AdamW(self.model.parameters(), lr=rate, betas=(0.9, 0.98))
        for step in (bar := tqdm(range(1, limit + 1), desc=name)):
            for group in optimiser.param_groups:
                group["lr"] = rate * min(step / 30, 1.05 - step / limit, 1)
            value = loss()
            optimiser.zero_grad()
            value.backward()
            clip_grad_norm_(self.model.parameters(), 1.0)
            optimiser.step()
            if step % every and step != limit:
                continue
            measured = targets()
            shown = {measure: round(reached, 4) for measure, (reached, _) in measured.items()}
            seconds, level = round(time.perf_counter() - self.start, 1), round(value.item(), 4)
            about = {"lesson": name, "step": step, "seconds": seconds, "loss": level}
            self.log.append(about | shown)
            bar.set_postfix(shown)
            if all(reached >= wanted for reached, wanted in measured.values()):
                break


def _padded(rows: Sequence[list[int]], value: int) -> torch.Tensor:
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)


# --- lesson 1 --------------------------------------------------------------------------------------


def _cells(pupil: Pupil, labels: Sequence[draw.Label]) -> torch.Tensor:
    """What each image token shows: shares of the characters in its cell, or a space; (16, vocabulary)."""
    side = IMAGE_SIZE / TOKENS_A_SIDE
    shares = torch.zeros(TOKENS_A_SIDE, TOKENS_A_SIDE, len(pupil.processor.tokenizer))
    begin = side * np.arange(TOKENS_A_SIDE)
    for label in labels:
        left, top, right, bottom = label.box
        wide = (np.minimum(right, begin + side) - np.maximum(left, begin)).clip(0)
        high = (np.minimum(bottom, begin + side) - np.maximum(top, begin)).clip(0)
        part = np.outer(high, wide) / ((right - left) * (bottom - top))
        part[part <= 0.3] = 0  # less of a character cannot be told
        shares[..., pupil.tokens(label.text)[0]] += torch.tensor(part).float()
    empty = shares.sum(-1) == 0
    shares[empty, pupil.tokens(" ")[0]] = 1
    return (shares / shares.sum(-1, keepdim=True)).flatten(0, 1)


def learn_to_see(
    pupil: Pupil,
    figures: Sequence[WorldProblem],
    unseen: Sequence[WorldProblem],
    eyesight: float,
    limit: int,
) -> None:
    """Lesson 1: an image token becomes the embedding of what stands in its cell, plus a code of its place."""
    figures, learnt_from = [*figures, *unseen], len(figures)
    patches = [pupil.patches([made.problem.image]) for made in figures]
    shown = torch.stack([_cells(pupil, made.drawing.labels) for made in figures])
    space = shown[..., pupil.tokens(" ")[0]] == 1
    words = pupil.model.get_input_embeddings().weight.detach()  # text is not to move for images
    places = 0.2 * torch.randn(TOKENS_A_SIDE**2, words.shape[1])

    def features(chosen: Sequence[int]) -> torch.Tensor:
        return pupil.look(torch.cat([patches[k] for k in chosen])) - places

    def loss() -> torch.Tensor:
        chosen = pupil.rng.sample(range(learnt_from), 32)
        tokens, wanted = features(chosen), shown[chosen]
        name = -(wanted * (tokens @ words.T).log_softmax(-1)).sum(-1)
        far = (tokens - wanted @ words).square().sum(-1)
        weight = torch.where(space[chosen], 0.3, 1.0)  # most of a page is empty
        return ((name + 0.05 * far) * weight).mean()

    @torch.no_grad()
    def targets() -> dict[str, tuple[float, float]]:
        chosen = range(learnt_from, len(figures))
        hit = (features(chosen) @ words.T).argmax(-1) == shown[chosen].argmax(-1)
        return {"eyesight": (hit[~space[chosen]].float().mean().item(), eyesight)}

    pupil.learn("eyes", limit, 2e-3, 25, loss, targets)


# --- lessons 2 to 4 --------------------------------------------------------------------------------


class Figures:
    """Problems with what the eyes make of their images: looked at once, since the eyes rest from now on."""

    @torch.no_grad()
    def __init__(self, pupil: Pupil, problems: Sequence[Problem]):
        self.pupil, self.problems = pupil, problems
        parts = [problems[k : k + 64] for k in range(0, len(problems), 64)]
        looked = [pupil.look(pupil.patches([p.image for p in part])) for part in parts]
        self.images = torch.cat(looked)

    def chains(self, parts: str, blind: bool = False) -> list[Example]:
        """The teacher's chain of thought for every problem; only its `parts` are learnt, see `_chain`."""
        images = [None] * len(self.problems) if blind else self.images
        pairs = zip(self.problems, images, strict=True)
        return [_chain(self.pupil, problem, image, parts) for problem, image in pairs]

    def probes(self) -> list[Example]:
        """The lengths of every image, asked for one after the other, in any order."""
        pairs = zip(self.problems, self.images, strict=True)
        return [_probes(self.pupil, problem, image) for problem, image in pairs]


def _chain(pupil: Pupil, problem: Problem, image: torch.Tensor | None, parts: str) -> Example:
    """A chain of thought of three parts: the "lengths" it states, the "words" of these statements, and the "rest"."""
    prompt = pupil.prompt_tokens(prompt_of(problem), image is not None)
    given = THINK + stated_text(problem)  # the teacher of bases is not sloppy
    stated, rest = pupil.tokens(given), pupil.tokens(problem.cot.removeprefix(given) + END)
    kinds = ["lengths" if token in pupil.digits else "words" for token in stated] + ["rest"] * len(
        rest
    )
    labels = [t if kind in parts else IGNORE for t, kind in zip(stated + rest, kinds, strict=True)]
    return Example(prompt + stated + rest, [IGNORE] * len(prompt) + labels, image)


def _probes(pupil: Pupil, problem: Problem, image: torch.Tensor) -> Example:
    tokens, labels = [], []
    gold = list(map(parse, problem.gold_facts))
    for fact in pupil.rng.sample(gold, len(gold)):
        side = "".join(fact.args[0].args[0].args)
        prompt = pupil.prompt_tokens(probe_prompt(side), image=not tokens)
        reply = pupil.tokens(f"{value_of(fact)}{END}")
        tokens += prompt + reply
        labels += [IGNORE] * len(prompt) + reply
    return Example(tokens, labels, image)


def additions(pupil: Pupil) -> Example:
    """Bare additions, eight in a row, of which the results are learnt: cheaper than in whole chains of thought."""
    pairs = [(pupil.rng.randint(2, 54), int(pupil.rng.choice(DIGITS))) for _ in range(8)]
    tokens = pupil.tokens(THINK + "".join(f"{added(*pair)}.\n" for pair in pairs))
    (equals,) = pupil.tokens(" = ")
    before = [None, *tokens[:-1]]
    labels = [t if b == equals else IGNORE for b, t in zip(before, tokens, strict=True)]
    return Example(tokens, labels)
