"""What a base of the map is taught, lesson by lesson. Used by `make.py`.

1. eyes: the vision tower makes of each cell of a figure the embedding of its character, and a code of its place;
2. sums: text alone, from stated facts to the answer, for every form of question;
3. reading: which length stands at which side; the eyes rest from here on;
4. answers: whole chains of thought, and some of lessons 2 and 3.

Real models come with trained eyes and a trained language model, and are then joined; so does this one.
"""

import itertools
import math
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

from perception_r1.annotation.pipeline import INSTRUCTION
from perception_r1.evaluation.admission import THINK, stated_text
from perception_r1.facts import parse, to_sentence
from perception_r1.problems.schema import IMAGE_MARK, Problem
from perception_r1.training.policy import IMAGE_SIZE, probe_prompt, prompt_of, with_image
from perception_r1.world import FAMILIES, WorldConfig, WorldProblem, draw, split_of
from perception_r1.world.reckon import added
from perception_r1.world.scene import in_reading_order, value_of
from perception_r1.world.sketch import Sketch

END = "<|im_end|>"  # the token after a response
IGNORE = -100  # a label without loss
TOKENS_A_SIDE = 4  # image tokens in each direction
GRID = 2 * TOKENS_A_SIDE  # patches in each direction
CHECK = 25  # steps between two looks at held-out targets
HELD_OUT = 96  # problems of split "dev" for those looks
DIGITS = "23456789"  # the lengths that can be taught


@dataclass(frozen=True)
class Example:
    """A training sequence: token ids, labels of the same length, and what the eyes make of its image, if any."""

    tokens: list[int]
    labels: list[int]
    image: torch.Tensor | None = None


Lesson = Callable[[int], torch.Tensor]  # from a number of examples to their loss


@dataclass
class Pupil:
    """A miniature at school, and the log of its lessons."""

    model: PreTrainedModel
    processor: ProcessorMixin
    rng: random.Random
    quiet: bool
    log: list[dict] = field(default_factory=list)
    start: float = field(default_factory=time.perf_counter)

    def patches(self, images: Sequence[Image.Image]) -> dict[str, torch.Tensor]:
        """Images as the model takes them."""
        return self.processor.image_processor(images, return_tensors="pt")

    def look(self, patches: dict[str, torch.Tensor]) -> torch.Tensor:
        """What the eyes make of images: a vector for each cell, (images, 16, width)."""
        return torch.stack(self.model.model.get_image_features(**patches).pooler_output)

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
        places, _ = backbone.get_rope_index(
            ids, shown.long(), image_grid_thw=grid, attention_mask=mask
        )
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
        self, name: str, limit: int, rate: float, loss: Callable[[], torch.Tensor],
        targets: Callable[[], dict[str, tuple[float, float]]],
    ) -> None:  # fmt: skip
        """One lesson: AdamW steps on `loss()` until `targets()`, {measure: (value, wanted)}, are all met."""
        optimiser = torch.optim.AdamW(self.model.parameters(), lr=rate, betas=(0.9, 0.98))
        for step in (bar := tqdm(range(1, limit + 1), desc=name, disable=self.quiet)):
            for group in optimiser.param_groups:
                group["lr"] = rate * min(step / 30, 1.05 - step / limit, 1)
            value = loss()
            optimiser.zero_grad()
            value.backward()
            clip_grad_norm_(self.model.parameters(), 1.0)
            optimiser.step()
            if step % CHECK and step != limit:
                continue
            measured = targets()
            shown = {measure: round(reached, 4) for measure, (reached, _) in measured.items()}
            seconds, level = round(time.perf_counter() - self.start, 1), round(value.item(), 4)
            self.log.append(
                {"lesson": name, "step": step, "seconds": seconds, "loss": level, **shown}
            )
            bar.set_postfix(shown)
            if all(reached >= wanted for reached, wanted in measured.values()):
                break


def _padded(rows: Sequence[list[int]], value: int) -> torch.Tensor:
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)


# --- lesson 1: eyes --------------------------------------------------------------------------------


@torch.no_grad()
def name_sides(pupil: Pupil, letters: str) -> None:
    """The name of a side is one token, as in real vocabularies; it begins as the sum of its letters."""
    words = pupil.model.get_input_embeddings().weight
    for side in itertools.combinations(letters, 2):
        words[pupil.tokens("".join(side))] = sum(words[pupil.tokens(letter)] for letter in side)


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


def _places(width: int) -> torch.Tensor:
    """A code for each cell's place, (16, width): waves along rows and columns, in random directions.

    The codes of two corners add up to that of the place between them, so that a side can be looked for.
    """
    steps = torch.arange(TOKENS_A_SIDE)[:, None] * torch.tensor([1, 2, 3]) * math.pi / 6
    waves = torch.cat([steps.cos(), steps.sin()], dim=1)  # (4, 6)
    grid = torch.cat([waves.repeat_interleave(4, dim=0), waves.repeat(4, 1)], dim=1)  # (16, 12)
    return 0.3 * grid @ torch.randn(grid.shape[1], width) / math.sqrt(6)


def learn_to_see(
    pupil: Pupil,
    figures: Sequence[WorldProblem],
    unseen: Sequence[WorldProblem],
    eyesight: float,
    limits: tuple[int, int],
) -> None:
    """Lesson 1: an image token should be the embedding of what stands in its cell, plus a code of its place.

    In the first steps it is to be nearest to the right embedding, in the others to come close to it: by how much
    closer it comes, so much sooner does the language model learn to look between two letters.
    """
    figures, learnt_from = [*figures, *unseen], len(figures)
    labels = [draw.layout(made.scene, IMAGE_SIZE, made.pose).labels for made in figures]
    images = [made.problem.image for made in figures]
    shown = torch.stack([_cells(pupil, of_figure) for of_figure in labels])
    space = shown[..., pupil.tokens(" ")[0]] == 1
    words = pupil.model.get_input_embeddings().weight.detach()  # text is not to move for images
    places = _places(words.shape[1])

    def features(chosen: Sequence[int]) -> torch.Tensor:
        return pupil.look(pupil.patches([images[k] for k in chosen])) - places

    def loss(closeness: float) -> torch.Tensor:
        chosen = pupil.rng.sample(range(learnt_from), 32)
        tokens, wanted = features(chosen), shown[chosen]
        name = -(wanted * (tokens @ words.T).log_softmax(-1)).sum(-1)
        far = (tokens - wanted @ words).square().sum(-1)
        weight = torch.where(space[chosen], 0.3, 1.0)  # most of a page is empty
        return ((name + closeness * far) * weight).mean()

    @torch.no_grad()
    def targets() -> dict[str, tuple[float, float]]:
        chosen = range(learnt_from, len(figures))
        hit = (features(chosen) @ words.T).argmax(-1) == shown[chosen].argmax(-1)
        return {"eyesight": (hit[~space[chosen]].float().mean().item(), eyesight)}

    pupil.learn("eyes", limits[0], 2e-3, lambda: loss(0.05), targets)
    pupil.learn("eyes, closer", limits[1], 2e-3, lambda: loss(0.3), targets)


# --- lesson 2: sums --------------------------------------------------------------------------------


def _example(
    pupil: Pupil, question: str, given: str, learnt: str, image: torch.Tensor | None
) -> Example:
    """The answer to a question, of which `given` is there already and `learnt` is to follow."""
    text = f"{question.replace(IMAGE_MARK, '')} {INSTRUCTION}"
    prompt = pupil.prompt_tokens([{"role": "user", "content": text}], image is not None)
    before, after = prompt + pupil.tokens(given), pupil.tokens(learnt + END)
    return Example(before + after, [IGNORE] * len(before) + after, image)


def computation(pupil: Pupil, problem: Problem, image: torch.Tensor | None) -> Example:
    """The gold facts are given, what follows from them is learnt; the teacher must not be sloppy."""
    given = THINK + stated_text(problem)
    return _example(pupil, problem.problem, given, problem.cot.removeprefix(given), image)


def _made_up(pupil: Pupil, world: WorldConfig) -> Example:
    """A computation of the training split for which no figure is drawn."""
    while True:
        sketch = Sketch(pupil.rng, world)
        (family,) = world.families
        question = FAMILIES[family][pupil.rng.choice(world.questions)](sketch)
        if split_of(family, tuple(sketch.facts)) == "train":
            break
    if question.shortcut and pupil.rng.random() < world.shortcut:
        question = question.shortcut
    lines, answer = question.work(*map(value_of, question.needed))
    stated = "".join(f"{to_sentence(fact)}\n" for fact in in_reading_order(sketch.facts))
    rest = "\n".join(lines) + f"\n</think>\n<answer>\nThe answer is \\boxed{{{answer}}}.\n</answer>"
    return _example(pupil, question.text, THINK + stated, rest, None)


def sums(pupil: Pupil, world: WorldConfig, count: int) -> Lesson:
    """From stated facts to the answer, without images."""
    examples = [_made_up(pupil, world) for _ in range(count)]
    return lambda size: pupil.loss(pupil.rng.sample(examples, size))


def drill(pupil: Pupil) -> Lesson:
    """Bare additions, eight in a row: cheaper than in whole chains of thought."""

    def row() -> Example:
        pairs = [(pupil.rng.randint(2, 54), int(pupil.rng.choice(DIGITS))) for _ in range(8)]
        tokens = pupil.tokens(THINK + "".join(f"{added(*pair)}.\n" for pair in pairs))
        return Example(tokens, tokens)

    return lambda size: pupil.loss([row() for _ in range(size)])


# --- lessons 3 and 4: figures ----------------------------------------------------------------------


class Figures:
    """Problems with what the eyes make of their images: looked at once, since the eyes rest from now on."""

    @torch.no_grad()
    def __init__(self, pupil: Pupil, problems: Sequence[Problem]):
        self.pupil, self.problems = pupil, problems
        parts = [problems[k : k + 64] for k in range(0, len(problems), 64)]
        looks = [pupil.look(pupil.patches([p.image for p in part])) for part in parts]
        self.images = torch.cat(looks)

    def lesson(self, *kinds: Callable[[Pupil, Problem, torch.Tensor], Example]) -> Lesson:
        """Examples of each kind, from problems chosen anew for each."""

        def loss(size: int) -> torch.Tensor:
            def examples(kind: Callable) -> list[Example]:
                chosen = self.pupil.rng.sample(range(len(self.problems)), size)
                return [kind(self.pupil, self.problems[k], self.images[k]) for k in chosen]

            return sum(self.pupil.loss(examples(kind)) for kind in kinds)

        return loss

    def all(self, kind: Callable[[Pupil, Problem, torch.Tensor], Example]) -> list[Example]:
        """An example of one kind for every problem."""
        pairs = zip(self.problems, self.images, strict=True)
        return [kind(self.pupil, problem, image) for problem, image in pairs]


def whole_answer(pupil: Pupil, problem: Problem, image: torch.Tensor) -> Example:
    """The teacher's chain of thought, from the first token to the last."""
    return _example(pupil, problem.problem, "", problem.cot, image)


def probes(pupil: Pupil, problem: Problem, image: torch.Tensor) -> Example:
    """One image and its lengths, asked for in any order."""
    tokens, labels = [], []
    gold = list(map(parse, problem.gold_facts))
    for fact in pupil.rng.sample(gold, len(gold)):
        side = "".join(fact.args[0].args[0].args)
        prompt = pupil.prompt_tokens(probe_prompt(side), image=not tokens)
        reply = pupil.tokens(f"{value_of(fact)}{END}")
        tokens += prompt + reply
        labels += [IGNORE] * len(prompt) + reply
    return Example(tokens, labels, image)


def reading(pupil: Pupil, problem: Problem, image: torch.Tensor) -> Example:
    """The values of the gold facts, each after the true ones before it."""
    prompt = pupil.prompt_tokens(prompt_of(problem), image=True) + pupil.tokens(THINK)
    stated = pupil.tokens(stated_text(problem))
    digits = {pupil.tokens(digit)[0] for digit in DIGITS}
    labels = [token if token in digits else IGNORE for token in stated]
    return Example(prompt + stated, [IGNORE] * len(prompt) + labels, image)
