"""A judging model for every laptop: a small text transformer, trained in seconds. Shown in notebook 03.

It reads an annotation and one sentence, and says whether the sentence states the annotation, contradicts it,
or neither. Names of points and numbers are arbitrary, so it never sees them: `encode` writes the first name
of an annotation as slot 0, the second as slot 1, and so on into the sentence; numbers likewise. What is left
to learn is which names stand where, and the words around them. It knows the words that it was trained on.
"""

import functools
import hashlib
import json
import math
import random
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import nn

from perception_r1.common.errors import InputError
from perception_r1.common.files import whole
from perception_r1.facts.reading import split_sentences
from perception_r1.reward.judges import (
    MARKS,
    Annotations,
    Judge,
    Mark,
    Responses,
    Verdict,
    cannot_judge,
)
from perception_r1.reward.labelled_statements import Statement

MAX_SENTENCES = 200  # of a response, different ones; the rest is not read
MAX_LETTERS = 300  # of a sentence or annotation, in characters
MAX_TOKENS = 64
RATE = 3e-3  # the highest learning rate
BATCH = 256  # pairs judged at once: bounds the memory

# --- from text to numbers --------------------------------------------------------------------------

Encoded = tuple[tuple[int, ...], tuple[int, ...]]  # an annotation and a sentence as indices
SLOTS = 12  # for names, and again for numbers; those beyond share the last
# what fills up, unknown words, and the starts of texts
_NONE, _UNKNOWN, _ANNOTATION, _SENTENCE = range(4)
_FIRST_SLOT = {"name": 4, "number": 4 + SLOTS}
_FIRST_WORD = 4 + 2 * SLOTS
_ONES = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
    sixteen seventeen eighteen nineteen""".split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_WORTH = {word: k for k, word in enumerate(_ONES)} | {t: 10 * k for k, t in enumerate(_TENS, 2)}
_TOKEN = re.compile(
    r"(?P<number>\d+(?:\.\d+)?)"
    r"|(?P<names>(?<![A-Za-z])(?:[A-Z]'?){1,4}(?![A-Za-z]))"
    rf"|(?P<spelled>\b(?:(?:{'|'.join(_TENS)})(?:[- ](?:{'|'.join(_ONES[1:10])}))?|{'|'.join(_ONES)})\b)"
    r"|(?P<word>[A-Za-z]+)|(?P<mark>[^\s.,()$\[\]{}\\])"  # the marks left out set type, or end a sentence
)


@functools.lru_cache(maxsize=2**14)
def tokens(text: str) -> tuple[tuple[str, str], ...]:
    """Kind and text of each token: "AB = 5" gives names A and B, a mark, and a number."""
    pairs: list[tuple[str, str]] = []
    for match in _TOKEN.finditer(text):
        kind, word = match.lastgroup, match[0]
        if kind == "names":
            pairs += [("name", name) for name in re.findall("[A-Z]'?", word)]
        elif kind == "number":
            pairs.append(("number", f"{float(word):g}"))
        elif kind == "spelled":
            pairs.append(("number", str(sum(_WORTH[part] for part in re.split("[- ]", word)))))
        else:
            pairs.append(("word", word.lower()))
    # the 90 of a right angle is a word: it has a meaning of its own
    return tuple(("word", w) if w == "90" else (kind, w) for kind, w in pairs[:MAX_TOKENS])


def _cut(text: str) -> str:
    """At most `MAX_LETTERS`, cut between words, lest 52 become 5."""
    if len(text) <= MAX_LETTERS:
        return text
    return text[: MAX_LETTERS + 1].rpartition(" ")[0]


def encode(annotation: str, sentence: str, words: dict[str, int]) -> Encoded:
    """The two texts as indices; equal names (and numbers) have equal slots, in order of appearance."""
    slots: dict[str, dict[str, int]] = {"name": {}, "number": {}}
    encoded = []
    for text, start in ((annotation, _ANNOTATION), (sentence, _SENTENCE)):
        row = [start]
        for kind, word in tokens(_cut(text)):
            if kind == "word":
                row.append(words.get(word, _UNKNOWN))
            else:
                slot = slots[kind].setdefault(word, len(slots[kind]))
                row.append(_FIRST_SLOT[kind] + min(slot, SLOTS - 1))
        encoded.append(tuple(row))
    return tuple(encoded)


def _tables(rows: Sequence[Encoded]) -> list[torch.Tensor]:
    """All annotations and all sentences, shapes (rows, longest), filled up with 0."""
    tables = (list(map(torch.tensor, texts)) for texts in zip(*rows, strict=True))
    return [nn.utils.rnn.pad_sequence(table, batch_first=True) for table in tables]


def _disturbed(text: tuple[int, ...], rng: random.Random) -> tuple[int, ...]:
    """The text, often with unknown words before it, after it or inside, which must not matter."""
    row, chance = list(text), rng.random()
    if chance < 0.15:
        row[1:1] = [_UNKNOWN] * rng.randint(1, 8)
    if 0.1 < chance < 0.25:
        row += [_UNKNOWN] * rng.randint(1, 8)
    if 0.25 < chance < 0.4:
        for _ in range(rng.randint(1, 3)):
            row.insert(rng.randint(1, len(row)), _UNKNOWN)
    return tuple(row)


# --- the model -------------------------------------------------------------------------------------

WIDTH, HEADS, LAYERS = 48, 4, 3
REACH = 6  # distances that are told apart, in tokens


class Reader(nn.Module):
    """Two texts in, three scores out: a transformer encoder over both, which knows distances, not places."""

    def __init__(self, vocabulary: int):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, WIDTH)
        self.segment = nn.Embedding(2, WIDTH)
        self.blocks = nn.ModuleList(_Block() for _ in range(LAYERS))
        self.head = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, len(MARKS)))
        # Added to attention: in each head, by the distance of two tokens, and where they are equal. At first
        # one head looks back, one ahead, the others at equal tokens: that saves half of the training.
        distance, equal = torch.zeros(LAYERS, HEADS, 2 * REACH + 3), torch.zeros(LAYERS, HEADS)
        distance[:, 0, REACH + 1] = distance[:, 1, REACH - 1] = equal[:, 2:] = 3
        self.distance, self.equal = nn.Parameter(distance), nn.Parameter(equal)
        nn.init.normal_(self.embed.weight, std=0.5)

    def forward(self, annotations: torch.Tensor, statements: torch.Tensor) -> torch.Tensor:
        """Scores, shape (pairs, 3), of two tables of indices, shapes (pairs, tokens) each."""
        # Each table is filled up by itself, so that distances are the same for all pairs.
        both = torch.cat([annotations, statements], dim=1)
        place = torch.arange(both.shape[1])
        segment = (place >= annotations.shape[1]).long()
        across = segment[:, None] - segment  # 1 or -1: from one text into the other
        apart = (place[:, None] - place).clamp(-REACH, REACH) + REACH
        apart = apart.where(across == 0, 2 * REACH + 1 + (across > 0).long())
        equal = (both[:, :, None] == both[:, None]).float()[:, None]
        unused = torch.zeros(both.shape).masked_fill(both == _NONE, -math.inf)[:, None, None]
        x = self.embed(both) + self.segment(segment)
        for k, block in enumerate(self.blocks):
            bias = self.distance[k][:, apart] + unused + equal * self.equal[k][:, None, None]
            # of the last block only the first token is read
            x = block(x, bias, kept=1 if k == LAYERS - 1 else both.shape[1])
        return self.head(x[:, 0])


class _Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attend, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.think = nn.Sequential(
            nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH)
        )

    def forward(self, x: torch.Tensor, bias: torch.Tensor, kept: int) -> torch.Tensor:
        """The first `kept` tokens anew: x (pairs, tokens, width), bias (pairs, heads, tokens, tokens)."""
        parts = self.attend(self.norm(x)).unflatten(-1, (3, HEADS, -1))
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        q = q[:, :, :kept] / math.sqrt(q.shape[-1])
        weights = (q @ k.transpose(-1, -2) + bias[:, :, :kept]).softmax(-1)
        x = x[:, :kept] + self.out((weights @ v).transpose(1, 2).flatten(2))
        return x + self.think(self.norm2(x))


# --- the judge -------------------------------------------------------------------------------------

FILE = "judge.safetensors"


class LearnedJudge(Judge):
    """Marks annotations with a trained `Reader`; make one with `train` or `load`.

    An annotation is contradicted if some sentence of the response contradicts it, with a probability above a
    half; else stated if some sentence states it; else absent. What one sentence does not say is not stated.

    Args:
        model: of `len(words)` words and the special indices.
        words: that it knows, in order.
        training: how it came about, for the card; its `log` says: `step`, `loss` (mean since the last row),
            `accuracy` on held-out problems.
        contradictions: mark "contradicted"; False: presence alone, as in the paper.
    """

    def __init__(
        self,
        model: Reader,
        words: Sequence[str],
        training: dict[str, object],
        contradictions: bool = True,
    ):
        self.model, self.words, self.training = model.eval(), list(words), dict(training)
        self.log: list[dict] = self.training["log"]
        self._index = {word: k for k, word in enumerate(words, _FIRST_WORD)}
        self.contradictions = contradictions
        self.name = "learned" if contradictions else "learned, presence only"

    @classmethod
    def train(
        cls, examples: Sequence[Statement], *, steps: int, seed: int, batch_size: int = 64
    ) -> "LearnedJudge":
        """Train from scratch; the examples of a tenth of the problems, at least one, are held out.

        Args:
            examples: of two problems or more, see `labelled_statements`.
            steps: of AdamW; the rate rises over the first tenth of them, and then falls to nothing.
            seed: decides the first weights, what is held out, and the order.
            batch_size: examples a step.
        """
        ids = sorted({example.id for example in examples})
        rng = random.Random(seed)
        held = set(rng.sample(ids, max(1, len(ids) // 10)))
        learnt = [example for example in examples if example.id not in held]
        checks = [example for example in examples if example.id in held]
        checks = rng.sample(checks, min(1000, len(checks)))
        texts = [text for example in learnt for text in (example.annotation, example.sentence)]
        kinds = Counter(token for text in texts for token in tokens(_cut(text)))
        words = sorted(word for (kind, word), n in kinds.items() if kind == "word" and n > 2)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = Reader(_FIRST_WORD + len(words))
        training = {"steps": steps, "batch_size": batch_size, "seed": seed, "examples": len(learnt)}
        judge = cls(model, words, training | {"checked_on": len(checks), "log": []})
        optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98))
        losses, order = [], []
        for step in range(1, steps + 1):
            if not order:
                order = rng.sample(learnt, len(learnt))
            batch, order = order[:batch_size], order[batch_size:]
            rows = [encode(e.annotation, e.sentence, judge._index) for e in batch]
            rows = [(annotation, _disturbed(sentence, rng)) for annotation, sentence in rows]
            labels = torch.tensor([MARKS.index(e.label) for e in batch])
            loss = nn.functional.cross_entropy(model(*_tables(rows)), labels)
            rise, fall = 10 * step / steps, 1.1 * (1 - step / (steps + 1))
            optimizer.param_groups[0]["lr"] = RATE * min(rise, fall)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
            if step % max(1, steps // 10) == 0 or step == steps:
                accuracy, mean = judge.accuracy(checks), sum(losses) / len(losses)
                judge.log.append({"step": step, "loss": mean, "accuracy": accuracy})
                losses = []
        return judge

    def accuracy(self, examples: Sequence[Statement]) -> float:
        """The share of examples whose label is the likeliest mark."""
        chances = self.chances([(e.annotation, e.sentence) for e in examples])
        best = [MARKS[row.index(max(row))] for row in chances]
        return sum(mark == e.label for mark, e in zip(best, examples, strict=True)) / len(best)

    @torch.inference_mode()
    def chances(self, pairs: Sequence[tuple[str, str]]) -> list[list[float]]:
        """Probabilities of the three `MARKS` for each pair of an annotation and a sentence."""
        rows = [encode(annotation, sentence, self._index) for annotation, sentence in pairs]
        # Many are equal without their names and numbers; those of like length need little filling up.
        different = sorted(set(rows), key=lambda row: (len(row[1]), row))
        probabilities: dict[Encoded, list[float]] = {}
        for start in range(0, len(different), BATCH):
            batch = different[start : start + BATCH]
            scores = self.model(*_tables(batch)).softmax(-1)
            probabilities.update(zip(batch, scores.tolist(), strict=True))
        return [probabilities[row] for row in rows]

    async def judge(self, responses: Responses, annotations: Annotations) -> list[Verdict]:
        """See `Judge`; the sentences of all responses are read together."""
        verdicts = cannot_judge(responses, annotations)
        places = [k for k in range(len(responses)) if k not in verdicts]
        texts = {
            k: list(dict.fromkeys(split_sentences(responses[k])))[:MAX_SENTENCES] for k in places
        }
        pairs = [(a, text) for k in places for a in annotations[k] for text in texts[k]]
        chances = iter(self.chances(pairs))
        for k in places:
            rows = [[next(chances) for _ in texts[k]] for _ in annotations[k]]
            verdicts[k] = Verdict([self._mark(row) for row in rows])
        return [verdicts[k] for k in range(len(responses))]

    def _mark(self, chances: list[list[float]]) -> Mark:
        for mark in ("contradicted", "stated") if self.contradictions else ("stated",):
            if any(row[MARKS.index(mark)] > 0.5 for row in chances):
                return mark
        return "absent"

    def card(self) -> dict[str, object]:
        """See `Judge`."""
        training = {key: value for key, value in self.training.items() if key != "log"}
        weights = safetensors.torch.save(self.model.state_dict())
        return {
            **super().card(),
            **training,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "words": len(self.words),
            "weights": hashlib.sha256(weights).hexdigest(),
        }

    def save(self, folder: Path) -> None:
        """Write the judge into a folder, as one file.

        Raises:
            InputError: the folder cannot be written.
        """
        about = {"words": json.dumps(self.words), "training": json.dumps(self.training)}
        with whole(Path(folder) / FILE) as temporary:
            temporary.write_bytes(safetensors.torch.save(self.model.state_dict(), about))

    @classmethod
    def load(cls, folder: Path, contradictions: bool = True) -> "LearnedJudge":
        """Read what `save` wrote.

        Raises:
            InputError: the file is missing, broken, or another's.
        """
        path = Path(folder) / FILE
        try:
            with safetensors.safe_open(path, "pt") as file:
                about = file.metadata()
                weights = {name: file.get_tensor(name) for name in file.keys()}
            words, training = json.loads(about["words"]), json.loads(about["training"])
            model = Reader(_FIRST_WORD + len(words))
            model.load_state_dict(weights)
            return cls(model, words, training, contradictions)
        except Exception as error:  # a file can be broken in any way
            fault = f"{path} is no judge: {' '.join(str(error).split())[:200]}"
            raise InputError(f"{fault}; train one and save it again") from error
