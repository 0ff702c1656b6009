"""A judging language model of our own: SmolLM2-135M, tuned with LoRA, on any CPU. Shown in notebook 03.

It reads one statement and one sentence at a time and says whether the sentence states it, contradicts it, or
neither: the probabilities of three words. `data/judges/make.py` tunes it; the adapter lies beside that file,
the language model itself in a GGUF file of the user's. Needs the extra "llm".
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import torch

from perception_r1.common.errors import InputError
from perception_r1.common.files import DATA, sha256
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

ADAPTER = DATA / "judges"
QUESTION = "Statement: {}\nText: {}\nDoes the text say so?"
WORDS: dict[Mark, str] = {"stated": " yes", "absent": " unknown", "contradicted": " no"}
MAX_SENTENCES = 200  # of a response, different ones; the rest is not read
MAX_LETTERS = 300  # of a sentence
BATCH = 32  # questions at once: bounds the memory
_DEGREES, _LATEX = re.compile(r"\^?\{?\\circ\}?|°"), re.compile(r"[$\\{}]")
_NAMES = re.compile(r"(?<![A-Za-z])(?:[A-Z]'?){1,4}(?![A-Za-z])")


def question(statement: str, sentence: str) -> str:
    """What the model is asked. Points are renamed A, B, C, ... in order of appearance: a name means nothing.

    So AB = 5 and XY = 5 are one question, and its answer is kept for both.
    """
    names: dict[str, str] = {}

    def renamed(match: re.Match) -> str:
        for name in re.findall("[A-Z]'?", match[0]):
            names.setdefault(name, chr(ord("A") + len(names) % 26))
        return "".join(names[name] for name in re.findall("[A-Z]'?", match[0]))

    texts = (_DEGREES.sub(" degrees", text) for text in (statement, sentence))
    texts = (_NAMES.sub(renamed, " ".join(_LATEX.sub(" ", text).split())) for text in texts)
    return QUESTION.format(*(text[:MAX_LETTERS] for text in texts))


class MarkReader:
    """A causal language model whose next word after a question is read as a mark.

    Args:
        gguf: file of the language model, as llama.cpp reads it.

    Raises:
        InputError: no such file, or one that cannot be read as a language model.
    """

    def __init__(self, gguf: str | Path):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        path = Path(gguf)
        try:
            source = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
            self.tokenizer = AutoTokenizer.from_pretrained(**source)
            self.model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
        except Exception as error:  # a file can be broken in any way
            fault = f"{path} is no language model: {' '.join(str(error).split())[:200]}"
            remedy = "give the GGUF file of SmolLM2-135M-Instruct, and install the extra: pip install -e '.[llm]'"
            raise InputError(f"{fault}; {remedy}") from error
        self.tokenizer.padding_side = "right"
        self.tokenizer.pad_token = self.tokenizer.eos_token
        self._words = [self.tokenizer(WORDS[mark]).input_ids[0] for mark in MARKS]

    def scores(self, questions: Sequence[str]) -> torch.Tensor:
        """Scores of the `MARKS` before softmax, shape (questions, 3)."""
        batch = self.tokenizer(list(questions), return_tensors="pt", padding=True)
        decoder, head = self.model.get_decoder(), self.model.get_output_embeddings()
        hidden = decoder(**batch, use_cache=False).last_hidden_state
        last = batch["attention_mask"].sum(1) - 1
        return hidden[torch.arange(len(last)), last] @ head.weight[self._words].T


class TunedJudge(Judge):
    """Marks annotations sentence by sentence with a tuned `MarkReader`.

    An annotation is contradicted if some sentence of the response contradicts it, with a probability above a
    half; else stated if some sentence states it, with a probability of at least the card's threshold.

    Args:
        gguf: see `MarkReader`.
        adapter: folder of the LoRA adapter and its `card.json`.
        contradictions: mark "contradicted"; False: presence alone, as in the paper.

    Raises:
        InputError: the GGUF file cannot be read, or is not the one that the adapter was tuned on.
    """

    graded, ask = True, "each"

    def __init__(self, gguf: str | Path, adapter: Path = ADAPTER, contradictions: bool = True):
        import peft

        self._card = json.loads((adapter / "card.json").read_text(encoding="utf-8"))
        self._reader = MarkReader(gguf)
        if sha256(Path(gguf)) != self._card["gguf"]:
            fault = f"{gguf} is not the file that {adapter} was tuned on"
            raise InputError(f"{fault}; its sha256 must be {self._card['gguf']}")
        tuned = peft.PeftModel.from_pretrained(self._reader.model, adapter)
        self._reader.model = tuned.merge_and_unload().eval()
        self.contradictions, self.threshold = contradictions, self._card["threshold"]
        self.name = "tuned" if contradictions else "tuned, presence only"
        self._known: dict[str, list[float]] = {}  # question -> probabilities of the MARKS

    @torch.inference_mode()
    def chances(self, pairs: Sequence[tuple[str, str]]) -> list[list[float]]:
        """Probabilities of the three `MARKS` for each pair of an annotation and a sentence."""
        questions = [question(*pair) for pair in pairs]
        new = sorted(set(questions) - self._known.keys(), key=lambda text: (len(text), text))
        for start in range(0, len(new), BATCH):
            batch = new[start : start + BATCH]
            rows = self._reader.scores(batch).softmax(-1).tolist()
            self._known.update(zip(batch, rows, strict=True))
        return [self._known[text] for text in questions]

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
            best = [_highest([next(chances) for _ in texts[k]]) for _ in annotations[k]]
            scores = [row[MARKS.index("stated")] for row in best]
            verdicts[k] = Verdict([self._mark(row) for row in best], scores=scores)
        return [verdicts[k] for k in range(len(responses))]

    def _mark(self, best: list[float]) -> Mark:
        chance = dict(zip(MARKS, best, strict=True))
        if self.contradictions and chance["contradicted"] > 0.5:
            return "contradicted"
        return "stated" if chance["stated"] >= self.threshold else "absent"

    def card(self) -> dict[str, object]:
        """See `Judge`."""
        return super().card() | self._card


def _highest(chances: list[list[float]]) -> list[float]:
    """Of each of the `MARKS` the highest probability over sentences; 0 where there is none."""
    return [max(column) for column in zip([0.0] * len(MARKS), *chances, strict=True)]
