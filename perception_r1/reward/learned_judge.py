"""A judging model for every laptop: a small text transformer, trained in seconds. Shown in notebook 03.

It reads an annotation and one sentence, and says whether the sentence states the annotation, contradicts it,
or neither. Names of points and numbers are arbitrary, so it never sees them: `encode` writes the first name
of an annotation as slot 0, the second as slot 1, and so on into the sentence; numbers likewise. What is left
to learn is which names stand where, and the words around them. It knows the words that it was trained on.
"""

import functools
import hashlib
import math
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import safetensors
import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn
from tqdm.auto import tqdm

from perception_r1 import __version__
from perception_r1.common.errors import InputError
from perception_r1.common.files import read_json, whole, write_json
from perception_r1.facts.reading import split_sentences
from perception_r1.reward.judges import MARKS, Mark, Verdict, cannot_judge
from perception_r1.reward.labelled_statements import Statement

MAX_SENTENCES = 200  # of a response, different ones; the rest is not read
MAX_LETTERS = 300  # of a sentence or annotation, in characters
MAX_TOKENS = 64
RATE = 3e-3  # the highest learning rate
BATCH = 256  # pairs judged at once: bounds the memory

# --- from text to numbers --------------------------------------------------------------------------

Row = tuple[tuple[int, ...], tuple[int, ...]]  # an annotation and a sentence as indices
SLOTS = 12  # for names, and again for numbers; those beyond share the last
_SPECIAL = ("<none>", "<unknown>", "<annotation>", "<sentence>")
_UNKNOWN = 1
_FIRST_WORD = len(_SPECIAL) + 2 * SLOTS
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
    found: list[tuple[str, str]] = []
    for match in _TOKEN.finditer(text):
        kind, word = match.lastgroup or "", match[0]
        if kind == "names":
            found += [("name", name) for name in re.findall("[A-Z]'?", word)]
        elif kind == "number":
            found.append(("number", f"{float(word):g}"))
        elif kind == "spelled":
            found.append(("number", str(sum(_WORTH[part] for part in re.split("[- ]", word)))))
        else:
            found.append(("word", word.lower()))
    return tuple(("word", w) if w == "90" else (kind, w) for kind, w in found[:MAX_TOKENS])


def _cut(text: str) -> str:
    """At most `MAX_LETTERS`, cut between words, lest 52 become 5."""
    if len(text) <= MAX_LETTERS:
        return text
    return text[: MAX_LETTERS + 1].rpartition(" ")[0]


def encode(annotation: str, sentence: str, words: dict[str, int]) -> Row:
    """The two texts as indices; equal names (and numbers) have equal slots, in order of appearance.

    A right angle's 90 is a word: it has a meaning of its own.
    """
    slots: dict[str, dict[str, int]] = {"name": {}, "number": {}}
    start = {"name": len(_SPECIAL), "number": len(_SPECIAL) + SLOTS}

    def index(kind: str, text: str) -> int:
        if kind == "word":
            return words.get(text, _UNKNOWN)
        return start[kind] + min(slots[kind].setdefault(text, len(slots[kind])), SLOTS - 1)

    one, two = ([index(*token) for token in tokens(_cut(text))] for text in (annotation, sentence))
    return (2, *one), (3, *two)


def _tables(rows: Sequence[Row]) -> list[torch.Tensor]:
    """All annotations and all sentences, shapes (rows, longest), filled up with 0."""
    tables = []
    for texts in zip(*rows, strict=True):
        longest = max(map(len, texts))
        tables.append(torch.tensor([text + (0,) * (longest - len(text)) for text in texts]))
    return tables


def _disturbed(text: tuple[int, ...], rng: random.Random) -> tuple[int, ...]:
    """The text, often with unknown words before it, after it or inside, which must not matter."""
    text, how = list(text), rng.random()
    if how < 0.15:
        text[1:1] = [_UNKNOWN] * rng.randint(1, 8)
    if 0.1 < how < 0.25:
        text += [_UNKNOWN] * rng.randint(1, 8)
    if 0.25 < how < 0.4:
        for _ in range(rng.randint(1, 3)):
            text.insert(rng.randint(1, len(text)), _UNKNOWN)
    return tuple(text)


# --- the model -------------------------------------------------------------------------------------


SIZES = {"width": 48, "heads": 4, "layers": 3, "reach": 6}  # reach: distances told apart, in tokens


class Reader(nn.Module):
    """Two texts in, three scores out: a transformer encoder over both, which knows distances, not places."""

    def __init__(self, vocabulary: int):
        super().__init__()
        width, heads, layers, reach = SIZES.values()
        self.embed = nn.Embedding(vocabulary, width)
        self.segment = nn.Embedding(2, width)
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(layers))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, len(MARKS)))
        # Added to attention: in each head, by the distance of two tokens, and where they are equal. At first
        # one head looks back, one ahead, the others at equal tokens: that saves half of the training.
        distance, equal = torch.zeros(layers, heads, 2 * reach + 3), torch.zeros(layers, heads)
        distance[:, 0, reach + 1] = distance[:, 1, reach - 1] = equal[:, 2:] = 3
        self.distance, self.equal = nn.Parameter(distance), nn.Parameter(equal)
        nn.init.normal_(self.embed.weight, std=0.5)

    def forward(self, annotations: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        """Scores, shape (pairs, 3), of two tables of indices, shapes (pairs, tokens) each."""
        # Each table is filled up by itself, so that distances are the same for all pairs.
        both = torch.cat([annotations, told], dim=1)
        place, reach = torch.arange(both.shape[1]), SIZES["reach"]
        segment = (place >= annotations.shape[1]).long()
        across = segment[:, None] - segment  # 1 or -1: from one text into the other
        apart = (place[:, None] - place).clamp(-reach, reach) + reach
        apart = apart.where(across == 0, 2 * reach + 1 + (across > 0).long())
        equal = (both[:, :, None] == both[:, None]).float()[:, None]
        unused = torch.zeros(both.shape).masked_fill(both == 0, -math.inf)[:, None, None]
        x = self.embed(both) + self.segment(segment)
        keep = [None] * (len(self.blocks) - 1) + [
            1
        ]  # of the last block only the first token is read
        parts = zip(self.blocks, self.distance, self.equal, keep, strict=True)
        for block, distance, alike, kept in parts:
            x = block(x, distance[:, apart] + unused + equal * alike[:, None, None], kept)
        return self.head(x[:, 0])


class _Block(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.think = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: torch.Tensor, bias: torch.Tensor, kept: int | None) -> torch.Tensor:
        """The first `kept` tokens anew: x (pairs, tokens, width), bias (pairs, heads, tokens, tokens)."""
        parts = self.attend(self.norm(x)).unflatten(-1, (3, self.heads, -1))
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        q = q[:, :, :kept] / math.sqrt(q.shape[-1])
        weights = (q @ k.transpose(-1, -2) + bias[:, :, :kept]).softmax(-1)
        x = x[:, :kept] + self.out((weights @ v).transpose(1, 2).flatten(2))
        return x + self.think(self.norm2(x))


# --- the judge -------------------------------------------------------------------------------------

FORMAT = "perception_r1 learned judge 1"


class _Record(BaseModel):
    """What stands beside the weights."""

    model_config = ConfigDict(extra="forbid")

    format: Literal["perception_r1 learned judge 1"]
    weights: str = Field(pattern="^[0-9a-f]{64}$")  # of the file; its name begins with them
    sizes: dict[str, int]
    words: list[str] = Field(max_length=100_000)
    training: dict[str, object]


class LearnedJudge:
    """Marks annotations with a trained `Reader`; make one with `train` or `load`.

    An annotation is contradicted if some sentence of the response contradicts it, with a probability above a
    half; else stated if some sentence states it; else absent. What one sentence does not say is not stated.

    Args:
        model: of `len(words)` words and the special indices.
        words: that it knows, in order.
        training: how it came about, for the card.
        contradictions: mark "contradicted"; False: presence alone, as in the paper.
    """

    def __init__(
        self, model: Reader, words: Sequence[str], training: dict[str, object],
        contradictions: bool = True,
    ):  # fmt: skip
        self.model = model.eval()
        self.words = list(words)
        self._index = {word: k for k, word in enumerate(words, _FIRST_WORD)}
        self.training, self.contradictions = dict(training), contradictions

    @property
    def name(self) -> str:
        """See `Judge`."""
        return "learned" if self.contradictions else "learned, presence only"

    @property
    def log(self) -> list[dict]:
        """Of training: `step`, `loss` (mean since the last row), `accuracy` on held-out problems."""
        return list(self.training.get("log", ()))

    @classmethod
    def train(
        cls, examples: Sequence[Statement], *, steps: int, seed: int, batch_size: int = 64,
        label: str = "",
    ) -> "LearnedJudge":  # fmt: skip
        """Train from scratch; the examples of a tenth of the problems, at least one, are held out.

        Args:
            examples: of two problems or more, see `statements`.
            steps: of AdamW; the rate rises over the first tenth of them, and then falls to nothing.
            seed: decides the first weights, what is held out, and the order.
            batch_size: examples a step.
            label: of the progress bar; no bar without one.

        Raises:
            InputError: no step to make, or nothing can be held out.
        """
        ids = sorted({example.id for example in examples})
        if len(ids) < 2 or steps < 1 or batch_size < 1:
            raise InputError(
                f"{len(ids)} problems, {steps} steps of {batch_size} examples; "
                "train on two problems or more, for one step or more"
            )
        rng = random.Random(seed)
        held = set(rng.sample(ids, max(1, len(ids) // 10)))
        learnt = [example for example in examples if example.id not in held]
        checks = [example for example in examples if example.id in held]
        checks = rng.sample(checks, min(1000, len(checks)))
        texts = Counter(text for e in learnt for text in (e.annotation, e.sentence))
        count = Counter()
        for text, times in texts.items():
            for kind, word in tokens(_cut(text)):
                count[word] += times * (kind == "word")
        words = sorted(word for word, times in count.items() if times > 2)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = Reader(_FIRST_WORD + len(words))
        log: list[dict] = []
        training = {"steps": steps, "batch_size": batch_size, "seed": seed, "examples": len(learnt),
                    "checked_on": len(checks), "log": log}  # fmt: skip
        judge = cls(model, words, training)
        optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98))
        losses, order = [], []
        bar = tqdm(range(1, steps + 1), desc=label, unit="step", disable=None if label else True)
        for step in bar:
            if not order:
                order = rng.sample(learnt, len(learnt))
            batch, order = order[:batch_size], order[batch_size:]
            rows = [(a, _disturbed(b, rng)) for a, b in judge._encoded(batch)]
            right = torch.tensor([MARKS.index(e.label) for e in batch])
            loss = nn.functional.cross_entropy(model(*_tables(rows)), right)
            rise, fall = 10 * step / steps, 1.1 * (1 - step / (steps + 1))
            optimizer.param_groups[0]["lr"] = RATE * min(rise, fall)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
            if step % max(1, steps // 10) == 0 or step == steps:
                chances = judge._chances(checks)
                best = [MARKS[chance.index(max(chance))] for chance in chances]
                hits = sum(mark == e.label for mark, e in zip(best, checks, strict=True))
                mean = sum(losses) / len(losses)
                log.append({"step": step, "loss": mean, "accuracy": hits / len(checks)})
                losses = []
        return judge

    def _encoded(self, pairs: Iterable[Statement]) -> list[Row]:
        return [encode(pair.annotation, pair.sentence, self._index) for pair in pairs]

    @torch.inference_mode()
    def _chances(self, pairs: Sequence[Statement]) -> list[list[float]]:
        """Probabilities of the three `MARKS` for each pair, whatever its label."""
        rows = self._encoded(pairs)
        # Many are equal without their names and numbers; those of like length need little filling up.
        different = sorted(set(rows), key=lambda row: (len(row[1]), row))
        found: dict[Row, list[float]] = {}
        for start in range(0, len(different), BATCH):
            batch = different[start : start + BATCH]
            scores = self.model(*_tables(batch)).softmax(-1)
            found.update(zip(batch, scores.tolist(), strict=True))
        return [found[row] for row in rows]

    async def judge(
        self, responses: Sequence[str | None], annotations: Sequence[Sequence[str]]
    ) -> list[Verdict]:
        """See `Judge`."""
        found = cannot_judge(responses, annotations)
        told = {
            k: list(dict.fromkeys(split_sentences(response)))[:MAX_SENTENCES]
            for k, response in enumerate(responses)
            if k not in found
        }
        pairs = [
            Statement("", a, s, "absent") for k in told for a in annotations[k] for s in told[k]
        ]
        chances = iter(self._chances(pairs))
        for k in told:
            rows = [[next(chances) for _ in told[k]] for _ in annotations[k]]
            found[k] = Verdict([self._mark(row) for row in rows])
        return [found[k] for k in range(len(responses))]

    def _mark(self, chances: list[list[float]]) -> Mark:
        stated, absent, contradicted = MARKS
        for mark in (contradicted, stated) if self.contradictions else (stated,):
            if any(row[MARKS.index(mark)] > 0.5 for row in chances):
                return mark
        return absent

    def card(self) -> dict[str, object]:
        """See `Judge`."""
        training = {key: value for key, value in self.training.items() if key != "log"}
        return {
            **training, "judge": self.name, "version": __version__, "sizes": SIZES,
            "parameters": sum(p.numel() for p in self.model.parameters()), "words": len(self.words),
            "weights": hashlib.sha256(self._bytes()).hexdigest(),
        }  # fmt: skip

    def again(self) -> "LearnedJudge":
        """See `Judge`; nothing is cached here."""
        return self

    def _bytes(self) -> bytes:
        return safetensors.torch.save(self.model.state_dict())

    def save(self, folder: Path) -> None:
        """Write `judge.json` and the weights that it names into a folder; a judge there stays whole until then.

        Raises:
            InputError: the folder cannot be written.
        """
        data = self._bytes()
        digest = hashlib.sha256(data).hexdigest()
        with whole(path := _weights(folder, digest)) as temporary:
            temporary.write_bytes(data)
        write_json(Path(folder) / "judge.json", {
            "format": FORMAT, "weights": digest, "sizes": SIZES,
            "words": self.words, "training": self.training,
        })  # fmt: skip
        for old in Path(folder).glob(f"weights-{'[0-9a-f]' * 16}.safetensors"):
            if old != path:
                old.unlink(missing_ok=True)

    @classmethod
    def load(cls, folder: Path, contradictions: bool = True) -> "LearnedJudge":
        """Read what `save` wrote.

        Raises:
            InputError: a file is missing, broken, or another's.
        """
        path = Path(folder) / "judge.json"
        try:
            record = _Record.model_validate(read_json(path))
            if record.sizes != SIZES:
                raise InputError(f"it names the sizes {record.sizes}, not {SIZES}")
            model = Reader(_FIRST_WORD + len(record.words))
            path = _weights(folder, record.weights)
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() != record.weights:
                raise InputError("it does not hold what judge.json names")
            model.load_state_dict(safetensors.torch.load(data))
        except (ValueError, OSError, RuntimeError, safetensors.SafetensorError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"{path} is no part of a judge: {reason}; train one and save it again"
            ) from error
        return cls(model, record.words, record.training, contradictions)


def _weights(folder: Path, digest: str) -> Path:
    return Path(folder) / f"weights-{digest[:16]}.safetensors"
