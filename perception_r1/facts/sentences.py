"""One English sentence for every fact, which leads back to exactly that fact.

A sentence is a subject, a verb and an object. Each of them is a phrase:

- a figure named by its points: `line AB`, or `segment AB` where its length is meant, `angle ABC`;
- other names: `circle 3`, `angle labelled 3`, `segment X-x`, `unnamed shape` (`$` in the annotation);
- a quantity: `the length of segment AB`, `the ratio of segment AB to segment CD`;
- a word before a figure: `minor arc AC`.

Names that English cannot carry are put in quotes; a quantity of several things, inside another, in [ ].
"""

import functools
import re
from collections.abc import Sequence

from perception_r1.facts.forms import MAX_CHARACTERS, MAX_DEPTH, Call, FactError, Term, short

_VERBS = {
    "Perpendicular": "is perpendicular to",
    "Parallel": "is parallel to",
    "Tangent": "is tangent to",
    "Congruent": "is congruent to",
    "Similar": "is similar to",
    "InscribedIn": "is inscribed in",
    "CircumscribedTo": "is circumscribed about",
    "BisectsAngle": "bisects",
}
_ADJECTIVES = ("Isosceles", "Equilateral", "Regular", "Right", "Shaded")
_THE = {"Midpoint", "Incenter", "Centroid", "Orthocenter", "Circumcenter", "Hypotenuse"}
_NOUNS = {"Add": "total", "Mul": "product", "SinOf": "sine", "CosOf": "cosine", "TanOf": "tangent"}
_BY_NOUN = {noun: name for name, noun in _NOUNS.items()}
_RATIOS = {"RatioOf", "ScaleFactorOf"}  # of one thing to another

_NOUN = r"([a-z]{2,}(?:-[a-z]+)*)"
_POINTS = r"(?:[A-Z]'*)+"
_PART = r"(?:[A-Za-z]'*|\d+|#\d*|\"[^\"]*\")"  # of a name in several parts: X-x
# A name that stands without quotes: no space, and none of the shapes that mean something else.
_BARE = rf"(?!{_NOUN}$)(?!(?:[A-Z]'*){{2,}}$)(?!{_PART}-)[^\s\[\]\"_,]+"
# A value that stands without quotes holds no words: "not 10", "10 and so on" are no values.
_VALUE = r"(?!an? )(?!(?:.* )?[A-Za-z]{2,}(?: |$))(?!.*\. )[^][\",;~_]+"
_NAME = r"\"([^\"]*)\"|([^\s\[\]\"]+)"


@functools.lru_cache(maxsize=2**14)
def to_sentence(fact: Call) -> str:
    """Say a fact in English: "The length of segment AB is 10."

    Raises:
        FactError: no sentence could be read back as exactly this fact.
    """
    text = _statement(fact)
    sentence = f"{text[0].upper()}{text[1:]}."
    if from_sentence(sentence) != fact:
        raise FactError(f"{short(str(fact))} cannot be said in one clear sentence")
    return sentence


@functools.lru_cache(maxsize=2**14)
def from_sentence(sentence: str) -> Call:
    """Read the fact that a sentence of `to_sentence` says.

    Raises:
        FactError: it is not a sentence of this grammar.
    """
    if len(sentence) > MAX_CHARACTERS:
        raise FactError(f"a sentence of more than {MAX_CHARACTERS} characters")
    text = " ".join(sentence.split())
    if not text.endswith(".") or not text[0].isupper():
        raise FactError(f"{short(sentence)} is not a sentence: capital first, full stop last")
    return _Reader(text[0].lower() + text[1:-1]).fact()


# --- saying ----------------------------------------------------------------------------------------


def _statement(fact: Call) -> str:
    match fact.name, fact.args:
        case "Equals", (first, last):
            subject = f"the value {_name(first)}" if isinstance(first, str) else _segment(first)
            return f"{subject} {_equal_to(last)}"
        case "PointLiesOnLine" | "PointLiesOnCircle" as name, (first, str(last)):
            place = name.removeprefix("PointLiesOn").lower()
            return f"{_point(first)} lies on the {place} named {_name(last)}"
        case name, (first, Call("Line" | "Circle" as place) as last) if (
            name == f"PointLiesOn{place}"
        ):
            return f"{_point(first)} lies on {_phrase(last)}"
        case name, (Call() as first, Call() as last) if name in _VERBS:
            return f"{_phrase(first)} {_VERBS[name]} {_phrase(last)}"
        case name, (first, Call() as last) if role := re.fullmatch(r"Is([A-Z][A-Za-z]*)Of", name):
            article = "the" if role[1] in _THE else "an" if role[1][0] in "AEIOU" else "a"
            return f"{_point(first)} is {article} {_words(role[1])} of {_segment(last)}"
        case "IntersectAt", (_, _, *_, point):
            return f"{_point(point)} is where {_list(fact.args[:-1], 'line', ' and ')} meet"
        case "Find", (first,):
            return f"find {_segment(first)}"
        case "UseTheorem", (first,):
            return f"use the theorem {_phrase(first)}"
        case "RightAngle", (Call() as first,):
            return f"{_phrase(first)} is a right angle"
        case name, (Call() as first,) if name in _ADJECTIVES:
            return f"{_phrase(first)} is {name.lower()}"
    return f"the figure shows {_phrase(fact)}"


def _segment(term: Term) -> str:
    return _phrase(term, "segment")


def _point(term: Term) -> str:
    return f"point {_name(term)}" if isinstance(term, str) else _segment(term)


def _equal_to(term: Term) -> str:
    if isinstance(term, Call):
        return f"equals {_segment(term)}"
    spaced = _spaced(term)
    return f"is {spaced if re.fullmatch(_VALUE, spaced) else _quoted(term)}"


def _phrase(term: Term, line: str = "line") -> str:
    """A name, figure or quantity in words; `line` says what a line is called."""
    if isinstance(term, str):
        return term if re.fullmatch(r"angle [a-z\d]+", term) else _name(term)
    name, args = term.name, term.args
    if name.endswith("Of") or name in _NOUNS:
        noun = _NOUNS.get(name) or _words(name.removesuffix("Of"))
        join = " to " if name in _RATIOS and len(args) == 2 else " and "
        return f"the {noun} of {_list(args, 'segment', join)}"
    noun = {"Line": line}.get(name) or _words(name)
    # "point A lies on" is about A, "the point A" about Point(A)
    the = "the " if name == "Point" else ""
    if not all(isinstance(a, str) for a in args):
        inside = f"[{_list(args, line, ' and ')}]" if len(args) > 1 else _phrase(args[0], line)
        return f"{the}{noun} {inside}"
    if all(re.fullmatch(r"[A-Z]'*", a) for a in args):
        return f"{the}{noun} {''.join(args)}"
    if len(args) > 1:
        radius = re.fullmatch(r"radius_(\d+)_(\d+)", args[1])
        if name == "Circle" and len(args) == 2 and radius:
            return f"circle {_name(args[0])} with radius label {radius[1]}-{radius[2]}"
        parts = [a.replace("$", "#") for a in args]
        return f"{the}{noun} {'-'.join(p if re.fullmatch(_PART, p) else _quoted(p) for p in parts)}"
    if unnamed := re.fullmatch(r"\$(\d*)", args[0]):
        return f"unnamed {noun} {unnamed[1]}".rstrip()
    return f"{the}{noun} {'labelled ' if name == 'Angle' else ''}{_name(args[0])}"


def _list(args: Sequence[Term], line: str, join: str) -> str:
    """The phrases of `args`; what holds a list itself goes into brackets."""
    phrases = [_phrase(a, line) for a in args]
    return join.join(f"[{p}]" if re.search(" and | to ", p) else p for p in phrases)


def _words(name: str) -> str:
    """ScaleFactor -> scale-factor."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()


def _spaced(atom: str) -> str:
    """Keep a bracket off the letter before it, since no call of a function is meant."""
    return re.sub(r"(?<=\w)\(", " (", atom).replace("$", "#")


def _quoted(atom: str) -> str:
    return '"' + _spaced(atom).replace(" ", "~").replace("_", " ") + '"'


def _name(atom: str) -> str:
    spaced = _spaced(atom)
    return spaced if re.fullmatch(_BARE, spaced) else _quoted(atom)


# --- reading ---------------------------------------------------------------------------------------


class _Reader:
    """Recursive descent through a sentence; `take` moves on past what matches."""

    def __init__(self, text: str) -> None:
        self.text, self.at, self.depth = text, 0, 0

    def take(self, pattern: str) -> re.Match | None:
        match = re.compile(pattern).match(self.text, self.at)
        self.at = match.end() if match else self.at
        return match

    def need(self, pattern: str) -> re.Match:
        if match := self.take(pattern):
            return match
        raise FactError(f"{short(self.text)} is no sentence, at {short(self.text[self.at :])}")

    def fact(self) -> Call:
        fact = self.statement()
        self.need("$")
        if isinstance(fact, str):
            raise FactError(f"{short(self.text)} names something but says nothing of it")
        return fact

    def statement(self) -> Term:
        if self.take("find "):
            return Call("Find", (self.phrase(),))
        if self.take("use the theorem "):
            return Call("UseTheorem", (self.phrase(),))
        if self.take("the figure shows "):
            return self.phrase()
        if self.take("the value "):
            return self.equation(self.name())
        first = self.name() if self.take("point ") else self.phrase()
        if place := self.take(" lies on the (line|circle) named "):
            return Call(f"PointLiesOn{_camel(place[1])}", (first, self.name()))
        if self.take(" lies on "):
            place = self.phrase()
            if isinstance(place, str) or place.name not in ("Line", "Circle"):
                raise FactError(f"{short(self.text)}: a point lies on a line or a circle")
            return Call(f"PointLiesOn{place.name}", (first, place))
        for name, verb in _VERBS.items():
            if self.take(f" {verb} "):
                return Call(name, (first, self.phrase()))
        if self.take(" is where "):
            lines = self.list(" and ")
            self.need(" meet$")
            return Call("IntersectAt", (*lines, first))
        if self.take(" is a right angle$"):
            return Call("RightAngle", (first,))
        if role := self.take(f" is (?:an?|the) {_NOUN} of "):
            return Call(f"Is{_camel(role[1])}Of", (first, self.phrase()))
        for name in _ADJECTIVES:
            if self.take(f" is {name.lower()}$"):
                return Call(name, (first,))
        return self.equation(first)

    def equation(self, first: Term) -> Call:
        if self.take(" equals "):
            return Call("Equals", (first, self.phrase()))
        if quoted := self.take(r" is \"([^\"]*)\"$"):
            return Call("Equals", (first, _unquoted(quoted[1])))
        return Call("Equals", (first, _unspaced(self.need(f" is ({_VALUE})$")[1])))

    def phrase(self, *, in_list: bool = False) -> Term:
        self.depth += 1
        if self.depth > 3 * MAX_DEPTH:
            raise FactError(f"{short(self.text)} is nested too deep")
        if self.take(r"\["):
            term = self.phrase()
            self.need(r"\]")
        elif noun := self.take(f"the (?!point ){_NOUN} of "):
            term = self.quantity(noun[1], in_list)
        elif noun := self.take(rf"unnamed {_NOUN}(?: (\d+))?(?=[ \]]|$)"):
            term = Call(_figure(noun[1]), ("$" + (noun[2] or ""),))
        elif noun := self.take(f"(?:the (?=point ))?(?!the ){_NOUN} "):
            term = self.figure(_figure(noun[1]), in_list)
        else:
            term = self.name()
        self.depth -= 1
        return term

    def quantity(self, noun: str, in_list: bool) -> Call:
        name = _BY_NOUN.get(noun) or f"{_camel(noun)}Of"
        if in_list:
            return Call(name, (self.phrase(in_list=True),))
        items = self.list(" and ")
        if name in _RATIOS and len(items) == 1 and self.take(" to "):
            items.append(self.phrase(in_list=True))
        return Call(name, tuple(items))

    def list(self, join: str) -> list[Term]:
        items = [self.phrase(in_list=True)]
        while self.take(join):
            items.append(self.phrase(in_list=True))
        return items

    def figure(self, name: str, in_list: bool) -> Term:
        """What follows a noun: its points, its parts, a figure it describes, or another name."""
        end = r"(?=[ \]]|$)"
        if points := self.take(f"{_POINTS}{end}"):
            args = tuple(re.findall("[A-Z]'*", points[0]))
        elif parts := self.take(f"{_PART}(?:-{_PART})+{end}"):
            args = tuple(map(_read_name, re.findall(_PART, parts[0])))
        elif self.take(r"\["):
            args = tuple(self.list(" and "))
            self.need(r"\]")
        elif name == "Angle" and self.take("labelled "):
            args = (self.name(),)
        elif re.compile(f"{_NOUN} ").match(self.text, self.at):
            args = (self.phrase(in_list=in_list),)
        elif name == "Angle":
            return f"angle {self.name()}"
        else:
            args = (self.name(),)
        if name == "Circle" and (radius := self.take(r" with radius label (\d+)-(\d+)")):
            args = (*args, f"radius_{radius[1]}_{radius[2]}")
        return Call(name, args)

    def name(self) -> str:
        return _read_name(self.need(_NAME)[0])


def _figure(noun: str) -> str:
    return "Line" if noun == "segment" else _camel(noun)


def _camel(words: str) -> str:
    """scale-factor -> ScaleFactor."""
    return "".join(word.capitalize() for word in words.split("-"))


def _read_name(text: str) -> str:
    return _unquoted(text[1:-1]) if text.startswith('"') else _unspaced(text)


def _unspaced(text: str) -> str:
    return re.sub(r"(?<=\w) \(", "(", text).replace("#", "$")


def _unquoted(text: str) -> str:
    return _unspaced(text.replace(" ", "_").replace("~", " "))
