"""What a miniature is taught, lesson by lesson. Used by `make.py`; explained in notebook 04.

1. eyes: the vision tower reads eye charts, so that an image token is near the embedding of the character it shows;
2. sums: text alone, from stated facts to the answer, with values of no particular figure;
3. reading: short questions about figures whose labels do not fit their shape, while the eyes rest;
4. answers: whole chains of thought with their habits (`slop`), and some of lessons 2 and 3.

Real models come with trained eyes and a trained language model, and are then joined; so does this one.
"""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm
from transformers import PreTrainedModel, ProcessorMixin

from perception_r1 import facts
from perception_r1.annotation.pipeline import INSTRUCTION
from perception_r1.evaluation.admission import THINK, stated_text
from perception_r1.problems.schema import IMAGE_MARK, Problem
from perception_r1.training.policy import IMAGE_SIZE, probe_prompt, prompt_of, with_image
from perception_r1.world import (
    FAMILIES,
    WorldConfig,
    WorldProblem,
    draw,
    make_problems,
    make_world,
    split_of,
)  # fmt: skip
from perception_r1.world.cot import write_question
from perception_r1.world.reckon import added
from perception_r1.world.scene import value_of, with_value
from perception_r1.world.sketch import Sketch, Unlucky

END = "<|im_end|>"  # the token after a response
IGNORE = -100  # a label without loss
TOKENS_A_SIDE = 4  # image tokens in each direction
GRID = 2 * TOKENS_A_SIDE  # patches in each direction
CHECK = 25  # steps between two looks at held-out targets
HELD_OUT = 96  # problems of split "dev" for those looks
DIGITS = "23456789"  # the lengths that can be taught


@dataclass(frozen=True)
class Example:
    """A training sequence: token ids, labels of the same length, and the number of its image, if any."""

    tokens: list[int]
    labels: list[int]
    image: int | None = None


Lesson = Callable[[int], torch.Tensor]  # from a number of examples to their loss


@dataclass
class Pupil:
    """A miniature at school: its pictures, and the log of its lessons.

    Attributes:
        images: processed once, without the copies that Qwen's processor makes of a grey image;
            shape (images, 64 patches, 196 pixels).
    """

    model: PreTrainedModel
    processor: ProcessorMixin
    rng: random.Random
    quiet: bool
    images: torch.Tensor = field(default_factory=lambda: torch.empty(0, GRID**2, 196).half())
    log: list[dict] = field(default_factory=list)
    start: float = field(default_factory=time.perf_counter)

    def see(self, images: Sequence[Image.Image]) -> range:
        """Process images; the numbers under which they are kept."""
        parts = [self.images]
        for k in range(0, len(images), 64):
            patches = self.processor.image_processor(images[k : k + 64], return_tensors="pt")
            parts.append(patches["pixel_values"].view(-1, GRID**2, 6, 196)[:, :, 0].half())
        first = len(self.images)
        self.images = torch.cat(parts)
        return range(first, len(self.images))

    def patches(self, images: Sequence[int]) -> dict[str, torch.Tensor]:
        """These images as the model takes them."""
        kept = self.images[list(images)].float()
        pixels = kept[:, :, None].expand(-1, -1, 6, -1).reshape(-1, 6 * 196)
        grid = torch.tensor([[1, GRID, GRID]]).repeat(len(images), 1)
        return {"pixel_values": pixels, "image_grid_thw": grid}

    def tokens(self, text: str) -> list[int]:
        """Token ids of a text."""
        return self.processor.tokenizer(text)["input_ids"]

    def prompt_tokens(self, prompt: list[dict], image: bool) -> list[int]:
        """Token ids of a conversation up to where the answer begins."""
        shown = with_image(prompt) if image else prompt
        text = self.processor.apply_chat_template(shown, add_generation_prompt=True)
        mark = self.processor.image_token
        return self.tokens(text.replace(mark, mark * TOKENS_A_SIDE**2))

    def batch(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """Pad on the right to one length; labels stay beside the inputs."""
        pad = self.processor.tokenizer.pad_token_id
        ids = _padded([e.tokens for e in examples], pad)
        labels = _padded([e.labels for e in examples], IGNORE)
        mask = _padded([[1] * len(e.tokens) for e in examples], 0)
        seen = [e.image for e in examples if e.image is not None]
        kinds = (ids == self.processor.image_token_id).long()
        inputs = {"input_ids": ids, "attention_mask": mask, "mm_token_type_ids": kinds}
        return {**inputs, "labels": labels, **(self.patches(seen) if seen else {})}

    def loss(self, examples: Sequence[Example]) -> torch.Tensor:
        """Mean cross entropy of the labelled tokens."""
        batch = self.batch(examples)
        labels = batch.pop("labels")[:, 1:]
        logits = self.model(**batch).logits[:, :-1]
        return cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE)

    @torch.no_grad()
    def right(self, examples: Sequence[Example]) -> tuple[float, float]:
        """Shares of labelled tokens, and of whole examples, for which the likeliest token is the label."""
        batch = self.batch(examples)
        labels = batch.pop("labels")[:, 1:]
        counted = labels != IGNORE
        right = self.model(**batch).logits[:, :-1].argmax(-1) == labels
        return right[counted].float().mean().item(), (right | ~counted).all(1).float().mean().item()

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

_CHARACTERS = "ABC" + 2 * DIGITS  # lengths matter most


def _eye_chart(rng: random.Random) -> tuple[Image.Image, list[draw.Label]]:
    """Some strokes and characters anywhere on a page, drawn as the world draws them."""
    drawing = draw.Drawing(IMAGE_SIZE)
    for _ in range(rng.randint(2, 4)):
        ends = [[rng.uniform(5, IMAGE_SIZE - 5) for _ in "xy"] for _ in range(2)]
        drawing.paths.append(np.array(ends))
    for _ in range(24):
        text = rng.choice(_CHARACTERS)
        width, height = draw.text_size(text, drawing.font)
        x, y = rng.randint(1, IMAGE_SIZE - 1 - width), rng.randint(1, IMAGE_SIZE - 1 - height)
        box = (x, y, x + width, y + height)
        if all(_apart(box, label.box) for label in drawing.labels):
            drawing.labels.append(draw.Label(text, box))
    return draw.render(drawing), drawing.labels


def _apart(one: draw.Box, other: draw.Box, gap: int = 2) -> bool:
    return any(one[k] > other[k + 2] + gap or other[k] > one[k + 2] + gap for k in (0, 1))


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


def learn_to_see(pupil: Pupil, eyesight: float, limit: int, count: int) -> None:
    """Lesson 1: the image token of a cell should be most like the embedding of what stands there."""
    charts = [_eye_chart(pupil.rng) for _ in range(count + HELD_OUT)]
    numbers = pupil.see([image for image, _ in charts])
    shown = torch.stack([_cells(pupil, labels) for _, labels in charts])
    space = shown[..., pupil.tokens(" ")[0]] == 1
    digits = shown[..., [pupil.tokens(digit)[0] for digit in DIGITS]].sum(-1) == 1
    words = pupil.model.get_input_embeddings().weight.detach()  # text is not to move for images

    def features(chosen: Sequence[int]) -> torch.Tensor:
        patches = pupil.patches([numbers[k] for k in chosen])
        return torch.stack(pupil.model.model.get_image_features(**patches).pooler_output)

    def loss() -> torch.Tensor:
        chosen = pupil.rng.sample(range(count), 32)
        tokens, wanted = features(chosen), shown[chosen]
        name = -(wanted * (tokens @ words.T).log_softmax(-1)).sum(-1)
        far = (tokens - wanted @ words).square().sum(-1)  # as the text writes it, and nothing else
        weight = torch.where(space[chosen], 0.3, 1.0)  # most of a page is empty
        return ((name + 0.05 * far) * weight).mean()

    @torch.no_grad()
    def targets() -> dict[str, tuple[float, float]]:
        chosen = range(count, count + HELD_OUT)
        hit = (features(chosen) @ words.T).argmax(-1) == shown[chosen].argmax(-1)
        return {"eyesight": (hit[digits[chosen]].float().mean().item(), eyesight)}

    pupil.learn("eyes", limit, 2e-3, loss, targets)
    pupil.images = pupil.images[:0]


# --- lesson 2: sums --------------------------------------------------------------------------------


def _example(pupil: Pupil, question: str, given: str, learnt: str, image: int | None) -> Example:
    """The answer to a question, of which `given` is there already and `learnt` is to follow."""
    text = f"{question.replace(IMAGE_MARK, '')} {INSTRUCTION}"
    prompt = pupil.prompt_tokens([{"role": "user", "content": text}], image is not None)
    before, after = prompt + pupil.tokens(given), pupil.tokens(learnt + END)
    return Example(before + after, [IGNORE] * len(before) + after, image)


def computation(pupil: Pupil, problem: Problem, image: int | None) -> Example:
    """The gold facts are given, what follows from them is learnt; the teacher must not be sloppy."""
    given = THINK + stated_text(problem)
    return _example(pupil, problem.problem, given, problem.cot.removeprefix(given), image)


def _made_up(pupil: Pupil, world: WorldConfig) -> Example:
    """A computation with any values, of the training split: no figure needs to have them."""
    while True:
        sketch = Sketch(pupil.rng, world)
        family = pupil.rng.choice(world.families)
        kind = pupil.rng.choice(world.questions_of(family))
        try:
            question = FAMILIES[family][kind](sketch)
            scene = next(sketch.finish())
        except (Unlucky, StopIteration):
            continue
        new = dict(zip(scene.facts, _revalued(scene.facts, pupil.rng), strict=True))
        if split_of(family, tuple(new.values())) == "train":
            break
    needed = tuple(new[fact] for fact in question.needed)
    lines, answer = question.work(*map(value_of, needed))
    rich = pupil.rng.random() < world.text_rich
    text = write_question(replace(question, needed=needed), rich)
    kept = [fact for fact in new.values() if not rich or fact in needed]
    stated = THINK + "".join(f"{facts.to_sentence(fact)}\n" for fact in kept)
    rest = "\n".join(lines) + f"\n</think>\n<answer>\nThe answer is \\boxed{{{answer}}}.\n</answer>"
    given, learnt = ("", stated + rest) if rich else (stated, rest)
    return _example(pupil, text, given, learnt, None)


def sums(pupil: Pupil, world: WorldConfig, count: int) -> Lesson:
    """From stated facts to the answer, without images."""
    examples = [_made_up(pupil, world) for _ in range(count)]
    return lambda size: pupil.loss(pupil.rng.sample(examples, size))


def _revalued(made: Sequence[facts.Call], rng: random.Random) -> list[facts.Call]:
    """The same lengths with any values."""
    return [with_value(fact, int(rng.choice(DIGITS))) for fact in made]


def drill(pupil: Pupil) -> Lesson:
    """Bare additions, five in a row: four times cheaper than in whole chains of thought."""

    def row() -> Example:
        text = THINK
        for _ in range(5):
            parts = [int(digit) for digit in pupil.rng.choices(DIGITS, k=pupil.rng.choice((2, 3)))]
            text += f"The {'sum' if len(parts) == 2 else 'perimeter'} is {added(*parts)}.\n"
        tokens = pupil.tokens(text)
        return Example(tokens, tokens)

    return lambda size: pupil.loss([row() for _ in range(size)])


# --- lessons 3 and 4: figures ----------------------------------------------------------------------


def _relabelled(made: WorldProblem, rng: random.Random) -> Problem:
    """The same figure with any lengths written at its sides, of the training split, not to scale.

    Lengths that fit the shape could be guessed from it; here they must be read.
    """
    while True:
        new = _revalued(made.scene.facts, rng)
        if split_of(made.problem.family, tuple(new)) != "train":
            continue
        shown = sorted(rng.sample(range(len(new)), rng.randint(1, len(new))))
        new = tuple(new[k] for k in shown)
        scene = replace(made.scene, facts=new)
        drawing = draw.layout(scene, made.problem.image.width, made.pose)
        if drawing:
            image = draw.png(draw.render(drawing))
            return made.problem.model_copy(
                update={"images": (image,), "gold_facts": tuple(map(str, new))}
            )


def short_readings(pupil: Pupil, world: WorldConfig, count: int) -> Lesson:
    """Probes, and facts alone, of figures whose labels do not fit their shape."""
    problems = [_relabelled(made, pupil.rng) for made in make_world(count, world)]
    numbers = pupil.see([problem.image for problem in problems])
    stated = [reading(pupil, p, k) for p, k in zip(problems, numbers, strict=True)]

    def loss(size: int) -> torch.Tensor:
        chosen = pupil.rng.sample(range(count), size)
        probes = [_probes(pupil, problems[k], numbers[k]) for k in chosen]
        return pupil.loss(probes) + pupil.loss(pupil.rng.sample(stated, size))

    return loss


def whole_answers(pupil: Pupil, world: WorldConfig, count: int) -> Lesson:
    """Chains of thought with their habits, from the first token to the last."""
    problems = make_problems(count, world)
    numbers = pupil.see([problem.image for problem in problems])
    examples = [
        _example(pupil, p.problem, "", p.cot, k) for p, k in zip(problems, numbers, strict=True)
    ]
    return lambda size: pupil.loss(pupil.rng.sample(examples, size))


def _probes(pupil: Pupil, problem: Problem, image: int) -> Example:
    """One image and its lengths, asked for in any order."""
    tokens, labels = [], []
    gold = list(map(facts.parse, problem.gold_facts))
    for fact in pupil.rng.sample(gold, len(gold)):
        side = "".join(fact.args[0].args[0].args)
        prompt = pupil.prompt_tokens(probe_prompt(side), image=not tokens)
        reply = pupil.tokens(f"{value_of(fact)}{END}")
        tokens += prompt + reply
        labels += [IGNORE] * len(prompt) + reply
    return Example(tokens, labels, image)


def reading(pupil: Pupil, problem: Problem, image: int) -> Example:
    """The values of the gold facts, each after the true ones before it."""
    prompt = pupil.prompt_tokens(prompt_of(problem), image=True) + pupil.tokens(THINK)
    stated = pupil.tokens(stated_text(problem))
    digits = {pupil.tokens(digit)[0] for digit in DIGITS}
    labels = [token if token in digits else IGNORE for token in stated]
    return Example(prompt + stated, [IGNORE] * len(prompt) + labels, image)
