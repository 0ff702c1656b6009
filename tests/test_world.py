"""The embedded world, against a solver of its own.

`solve` reads the question and the logic forms as text and reasons as a pupil would (angle sums, Pythagoras,
congruent sides); it shares no code with the generator. `Measured` is a second witness: it measures the
figure as drawn.
"""

import dataclasses
import hashlib
import io
import itertools
import json
import math
import os
import re
import subprocess
import sys
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from perception_r1 import facts
from perception_r1.common.errors import InputError
from perception_r1.common.files import ROOT
from perception_r1.problems import answers
from perception_r1.world import (
    FAMILIES,
    Pose,
    WorldConfig,
    draw,
    make_problems,
    make_world,
    redraw,
)

SCENES = 1000  # per family
SPLITS = {"train": 850, "dev": 50, "test": 50, "test_unseen": 50}


@pytest.fixture(scope="module", params=FAMILIES)
def scenes(request):
    """A thousand problems of one family, drawn once for all tests; a small page saves time."""
    config = WorldConfig(families=(request.param,), seed=11, image_size=160)
    return [made for split, n in SPLITS.items() for made in make_world(n, config, split)]


@pytest.fixture(scope="module")
def mixed():
    """Some problems of all families at the usual size."""
    return list(make_world(210, WorldConfig(seed=3)))


# --- reading, by regular expressions of our own -----------------------------------------------------

FORMS = {
    "length": r"Equals\(LengthOf\(Line\((.), (.)\)\), (\d+)\)",
    "angle": r"Equals\(MeasureOf\(Angle\((.), (.), (.)\)\), (\d+)\)",
    "equal": r"Equals\(LengthOf\(Line\((.), (.)\)\), LengthOf\(Line\((.), (.)\)\)\)",
    "perpendicular": r"Perpendicular\(Line\((.), (.)\), Line\((.), (.)\)\)",
    "parallel": r"Parallel\(Line\((.), (.)\), Line\((.), (.)\)\)",
    "on": r"PointLiesOnLine\((.), Line\((.), (.)\)\)",
    "circle": r"PointLiesOnCircle\((.), Circle\((O)\)\)",
    "middle": r"IsMidpointOf\((.), Line\((.), (.)\)\)",
}
SHORT = {  # as a question gives facts
    "length": r"(.)(.) = (\d+)",
    "angle": r"angle (.)(.)(.) = (\d+)",
    "equal": r"(.)(.) = ([A-Z])([A-Z])",
    "perpendicular": r"(.)(.) is perpendicular to (.)(.)",
    "parallel": r"(.)(.) is parallel to (.)(.)",
    "on": r"(.) lies on (.)(.)",
    "circle": r"(.) lies on circle (O)",
    "middle": r"(.) is the midpoint of (.)(.)",
}
SENTENCES = {
    "length": r"The length of segment (.)(.) is (\d+)\.",
    "angle": r"The measure of angle (.)(.)(.) is (\d+)\.",
    "equal": r"The length of segment (.)(.) equals the length of segment (.)(.)\.",
    "perpendicular": r"Line (.)(.) is perpendicular to line (.)(.)\.",
    "parallel": r"Line (.)(.) is parallel to line (.)(.)\.",
    "on": r"Point (.) lies on line (.)(.)\.",
    "circle": r"Point (.) lies on circle (O)\.",
    "middle": r"Point (.) is the midpoint of segment (.)(.)\.",
}


def read(text, patterns=FORMS):
    """One fact as (kind, names and numbers); fails on anything that no pattern fits."""
    for kind, pattern in patterns.items():
        if found := re.fullmatch(pattern, text):
            return kind, *found.groups()
    raise AssertionError(f"unread: {text!r}")


def read_question(text):
    """(the facts in the question, what is asked, of which names)."""
    assert text.startswith("<image>")
    text, given = text.removeprefix("<image>"), []
    if found := re.fullmatch(r"In the figure, (.*?)\. (.*)", text):
        given = [read(part, SHORT) for part in re.split(", | and ", found[1])]
        text = found[2]
    for kind, pattern in {
        "length": r"What is the length of segment (?P<a>[A-Z]{2})\?",
        "angle": r"(?:In quadrilateral (?P<b>[A-Z]{4}), w|W)hat is the measure of angle (?P<a>[A-Z]{3}) "
        r"in degrees\?",
        "perimeter": r"What is the perimeter of (?:triangle|quadrilateral) (?P<a>[A-Z]{3,4})\?",
        "area": r"What is the area of (?:triangle|quadrilateral) (?P<a>[A-Z]{3,4})\?",
        "sum": r"What is (?P<a>[A-Z]{2}) \+ (?P<b>[A-Z]{2})\?",
    }.items():
        if found := re.fullmatch(pattern, text):
            groups = found.groupdict()
            return given, kind, groups["a"], groups.get("b") or ""
    raise AssertionError(f"unread question: {text!r}")


# --- solving ---------------------------------------------------------------------------------------


class Classes:
    """Things that are known to be the same."""

    def __init__(self):
        self.parent = {}

    def of(self, x):
        while x in self.parent:
            x = self.parent[x]
        return x

    def join(self, x, y):
        x, y = self.of(x), self.of(y)
        if x != y:
            self.parent[x] = y
        return x != y


def side(a, b):
    return frozenset((a, b))


class Solver:
    """What follows from facts. Three things stand in the figure and in no fact: two parallel lines are
    named in the same direction, a transversal's first end is nearer to the first line, and an inscribed
    angle stands on the longer arc."""

    def __init__(self, forms, polygon=""):
        known = [read(form) for form in forms]
        self.polygon = polygon
        self.of = {kind: [f[1:] for f in known if f[0] == kind] for kind in FORMS}
        self.between = {(p, side(a, b)) for p, a, b in self.of["on"] + self.of["middle"]}
        self.points = set("".join(x for f in known for x in f[1:] if x.isalpha())) | set(polygon)
        self.parallel = [((a, b), (c, d)) for a, b, c, d in self.of["parallel"]]
        self._right_angles()
        self._same_lengths()

    def _right_angles(self):
        """(corner, arm, arm) of right angles: at a common end, or at a foot between the ends."""
        self.right = set()
        for a, b, c, d in self.of["perpendicular"]:
            for v in {a, b, c, d}:
                first = self._arms(v, a, b)
                second = self._arms(v, c, d)
                self.right |= {(v, p, q) for p in first for q in second}
        for a, b, c in itertools.permutations(self.of["circle"], 3):
            if ("O", side(a[0], b[0])) in self.between:
                self.right.add((c[0], a[0], b[0]))

    def _arms(self, v, a, b):
        if v in (a, b):
            return [b if v == a else a]
        return [a, b] if (v, side(a, b)) in self.between else []

    def _same_lengths(self):
        self.classes = Classes()
        same = self.classes.join
        for a, b, c, d in self.of["equal"]:
            same(side(a, b), side(c, d))
        for m, a, b in self.of["middle"]:
            same(side(m, a), side(m, b))
            for v, p, q in self.right:  # the corner of a right angle is on the circle round m
                if {p, q} == {a, b}:
                    same(side(m, v), side(m, a))
        for (a, _), (b, _) in itertools.pairwise(self.of["circle"]):
            same(side("O", a), side("O", b))
        if len(self.polygon) == 4:
            p, q, r, s = self.polygon
            pairs = (side(p, q), side(r, s)), (side(q, r), side(s, p))
            drawn = [{side(*x), side(*y)} for x, y in self.parallel]
            ticked = [self.classes.of(x) == self.classes.of(y) for x, y in pairs]
            if all(set(pair) in drawn for pair in pairs) or all(ticked):
                for x, y in pairs:
                    same(x, y)
                self.parallel += [((p, q), (s, r)), ((q, r), (p, s))]
        for v, p, q in itertools.permutations(self.points, 3):
            for c in self.points:  # the foot of the height of an isosceles triangle
                if (c, side(p, q)) in self.between and (c, v, p) in self._both(self.right):
                    if self.classes.of(side(v, p)) == self.classes.of(side(v, q)):
                        same(side(c, p), side(c, q))

    @staticmethod
    def _both(right):
        return right | {(v, q, p) for v, p, q in right}

    # lengths

    def lengths(self):
        """class -> length, of all that follow."""
        of, known = self.classes.of, {}
        for a, b, value in self.of["length"]:
            known[of(side(a, b))] = Fraction(value)
        size = -1
        while len(known) > size:
            size = len(known)
            for p, ab in self.between:
                a, b = ab
                parts, total = (of(side(a, p)), of(side(p, b))), of(ab)
                if parts[0] == parts[1]:
                    self._halve(known, parts[0], total)
                elif all(part in known for part in parts):
                    known.setdefault(total, known[parts[0]] + known[parts[1]])
            for v, p, q in self.right:
                self._pythagoras(known, of(side(v, p)), of(side(v, q)), of(side(p, q)))
            for (m, a, b), (n, c, d) in itertools.combinations(self.of["middle"], 2):
                self._midsegment(known, side(m, n), (a, b), (c, d))
        return known

    def _halve(self, known, half, total):
        if total in known:
            known.setdefault(half, known[total] / 2)
        elif half in known:
            known[total] = 2 * known[half]

    def _pythagoras(self, known, leg, other, long):
        for sign, x, y, z in (
            (1, leg, other, long),
            (-1, long, leg, other),
            (-1, long, other, leg),
        ):
            if x in known and y in known and z not in known:
                square = known[x] ** 2 + sign * known[y] ** 2
                if (
                    square > 0
                    and square.denominator == 1
                    and math.isqrt(int(square)) ** 2 == square
                ):
                    known[z] = Fraction(math.isqrt(int(square)))

    def _midsegment(self, known, middle, ab, cd):
        of = self.classes.of
        if shared := set(ab) & set(cd):
            base = side(*(set(ab) ^ set(cd)))
            if len(shared) == 1:
                self._halve(known, of(middle), of(base))
            return
        drawn = [{side(*x), side(*y)} for x, y in self.parallel]
        for c, d in (cd, cd[::-1]):
            bases = side(ab[0], c), side(ab[1], d)
            if set(bases) in drawn:
                values = [known.get(of(base)) for base in bases]
                if None not in values:
                    known.setdefault(of(middle), sum(values) / 2)
                elif of(middle) in known:
                    for base, other in (bases, bases[::-1]):
                        if of(other) in known:
                            known.setdefault(of(base), 2 * known[of(middle)] - known[of(other)])

    def total(self, sides):
        known = self.lengths()
        values = [known.get(self.classes.of(s)) for s in sides]
        return None if None in values else sum(values)

    def area(self):
        known = self.lengths()
        corners = self.polygon
        sides = [side(*ab) for ab in zip(corners, corners[1:] + corners[0], strict=True)]

        def length(s):
            return known.get(self.classes.of(s))

        for v, p, q in self._both(self.right):  # vp is a height on the base that q is an end of
            for base in sides:
                foot_on_base = v in base or (v, base) in self.between
                if q not in base or not foot_on_base or p not in corners or p in base:
                    continue
                top = [s for s in sides if not s & base] if len(corners) == 4 else [None]
                drawn = [{side(*x), side(*y)} for x, y in self.parallel]
                for other in top:
                    if other is not None and {base, other} not in drawn:
                        continue
                    values = (
                        length(base),
                        length(side(v, p)),
                        length(other) if other else Fraction(0),
                    )
                    if None not in values:
                        return (values[0] + values[2]) * values[1] / 2
        return None

    # angles

    def angle(self, asked):
        """The measure of an angle "ABC", or None."""
        rays = Classes()
        opposite = []
        for p, ab in sorted(self.between, key=str):
            a, b = sorted(ab)
            rays.join((a, p), (a, b))
            rays.join((b, p), (b, a))
            opposite.append((p, a, b))
        for (g, e, f), (h, *ef) in itertools.combinations(sorted(self.of["on"]), 2):
            if [e, f] == ef and self.parallel:  # E, G, H, F in this order on the transversal
                rays.join((g, h), (g, f))
                rays.join((h, g), (h, e))
                rays.join((e, g), (e, h))

        def name(v, p, q):
            return v, frozenset((rays.of((v, p)), rays.of((v, q))))

        known = {name(v, p, q): Fraction(90) for v, p, q in self.right}
        for p, v, q, value in self.of["angle"]:
            known[name(v, p, q)] = Fraction(value)
        sums = [  # angles of triangles; those of a triangle that is none have a straight one or one ray
            [name(a, b, c), name(b, a, c), name(c, a, b)]
            for a, b, c in itertools.combinations(sorted(self.points), 3)
            if not self._in_line(a, b, c)
        ]
        for v, a, b in opposite:
            sums += [[name(v, a, x), name(v, x, b)] for x in self.points - {v, a, b}]
        sums += [
            [name(g, x, h), name(h, y, g)]
            for g, h, x, y in self._between_parallels()
            if len({g, h, x, y}) == 4
        ]
        equal, doubled = [], []
        for v, a, b in itertools.permutations(sorted(self.points), 3):
            if a < b and self.classes.of(side(v, a)) == self.classes.of(side(v, b)):
                if not self._in_line(v, a, b):
                    equal.append((name(a, v, b), name(b, v, a), name(v, a, b)))
        if all((p,) in [c[:1] for c in self.of["circle"]] for p in asked):
            a, c, b = asked
            doubled.append((name(c, a, b), name("O", a, b)))
        size = -1
        while len(known) > size:
            size = len(known)
            for parts in sums:
                unknown = [part for part in parts if part not in known]
                if len(unknown) == 1:
                    known[unknown[0]] = 180 - sum(known[part] for part in parts if part in known)
            for one, other, top in equal:
                for x, y in ((one, other), (other, one)):
                    if x in known:
                        known.setdefault(y, known[x])
                    elif top in known:
                        known[x] = (180 - known[top]) / 2
            for half, whole in doubled:
                if whole in known:
                    known.setdefault(half, known[whole] / 2)
        a, v, b = asked
        return known.get(name(v, a, b))

    def _in_line(self, *three):
        return any(
            p in three and set(three) - {p} <= self._line_through(p, ab) for p, ab in self.between
        )

    def _line_through(self, p, ab):
        return set(ab) | {q for q, cd in self.between if cd == ab}

    def _between_parallels(self):
        """(g, h, x, y): angles xgh and yhg lie between parallels on one side of the line gh."""
        for (a, b), (c, d) in self.parallel:
            if self.polygon:
                at = self.polygon.index
                if (at(b) - at(a)) % 4 == (
                    at(d) - at(c)
                ) % 4:  # both clockwise: opposite directions
                    c, d = d, c
                yield from ((a, c, b, d), (b, d, a, c))
            on_first = [p for p, ab in self.between if ab == side(a, b)]
            on_second = [p for p, cd in self.between if cd == side(c, d)]
            for g, h in itertools.product(on_first, on_second):
                yield from ((g, h, a, c), (g, h, b, d))


def solve(question, forms):
    """The answer that follows from the facts, or None."""
    _, kind, names, more = read_question(question)
    if kind == "angle":
        return Solver(forms, more).angle(names)
    if kind in ("length", "sum"):
        sides = [side(*names), *([side(*more)] if more else [])]
        return Solver(forms).total(sides)
    solver = Solver(forms, names)
    if kind == "area":
        return solver.area()
    return solver.total(side(*ab) for ab in zip(names, names[1:] + names[0], strict=True))


# --- measuring -------------------------------------------------------------------------------------


class Measured:
    """The figure as drawn, with a ruler whose unit is that of the labels."""

    def __init__(self, made):
        self.at = made.scene.points
        self.radius = made.scene.radius
        known = [read(form) for form in made.problem.gold_facts]
        units = {int(f[3]) / self.distance(*f[1:3]) for f in known if f[0] == "length"}
        self.unit = next(iter(units), 1)
        assert all(math.isclose(unit, self.unit, rel_tol=1e-6) for unit in units)

    def distance(self, a, b):
        return abs(self.at[a] - self.at[b])

    def length(self, ab):
        return self.distance(*ab) * self.unit

    def angle(self, abc):
        (a, v, b) = (self.at[p] for p in abc)
        aside, side_, base = abs(a - v), abs(b - v), abs(a - b)  # law of cosines
        return math.degrees(math.acos((aside**2 + side_**2 - base**2) / (2 * aside * side_)))

    def area(self, names):
        turn = list(zip(names, names[1:] + names[0], strict=True))
        shoelace = sum(
            self.at[a].real * self.at[b].imag - self.at[b].real * self.at[a].imag for a, b in turn
        )
        return abs(shoelace) / 2 * self.unit**2

    def asked(self, question):
        _, kind, names, more = read_question(question)
        if kind == "perimeter":
            return sum(map(self.length, zip(names, names[1:] + names[0], strict=True)))
        value = getattr(self, {"sum": "length"}.get(kind, kind))(names)
        return value + self.length(more) if kind == "sum" else value

    def holds(self, form, patterns=FORMS):
        kind, *x = read(form, patterns)
        near = dict(rel_tol=1e-6, abs_tol=1e-6)
        if kind == "length":
            return math.isclose(self.length(x[:2]), int(x[2]), **near)
        if kind == "angle":
            return math.isclose(self.angle(x[:3]), int(x[3]), **near)
        if kind == "equal":
            return math.isclose(self.length(x[:2]), self.length(x[2:]), **near)
        if kind in ("perpendicular", "parallel"):
            way = (self.at[x[1]] - self.at[x[0]]) / (self.at[x[3]] - self.at[x[2]])
            return abs((way.real if kind == "perpendicular" else way.imag) / abs(way)) < 1e-9
        if kind == "circle":
            return math.isclose(self.distance(*x), self.radius, **near)
        share = (self.at[x[0]] - self.at[x[1]]) / (self.at[x[2]] - self.at[x[1]])
        on = abs(share.imag) < 1e-9 and 0.01 < share.real < 0.99
        return on and (kind == "on" or math.isclose(share.real, 0.5))


# --- gold facts, question, answer, figure and CoT agree --------------------------------------------


def test_the_answer_follows_from_question_and_gold_facts_alone(scenes):
    assert len(scenes) == SCENES
    for made in scenes:
        p = made.problem
        assert solve(p.problem, p.gold_facts) == int(p.answer), p
        assert p.answer == str(int(p.answer)) and int(p.answer) > 0


def test_every_question_of_the_family_is_asked(scenes):
    family = scenes[0].problem.family
    assert {made.problem.family for made in scenes} == {family}
    assert {made.question for made in scenes} == set(FAMILIES[family])


def test_the_needed_facts_suffice_and_none_can_be_spared(scenes):
    for made in scenes[:200]:
        p = made.problem
        assert set(p.needed_facts) <= set(p.gold_facts)
        assert solve(p.problem, p.needed_facts) == int(p.answer), p
        for spared in p.needed_facts:
            rest = [form for form in p.needed_facts if form != spared]
            assert solve(p.problem, rest) is None, (spared, p)


def test_the_figure_as_drawn_shows_the_gold_facts_and_the_answer(scenes):
    for made in scenes:
        figure, p = Measured(made), made.problem
        for form in p.gold_facts:
            assert figure.holds(form), (form, p)
        assert math.isclose(figure.asked(p.problem), int(p.answer), rel_tol=1e-6), p


def test_facts_are_distinct_and_given_facts_are_the_needed_ones(scenes):
    rich = 0
    for made in scenes:
        p = made.problem
        assert len({facts.key(facts.parse(form)) for form in p.gold_facts}) == len(p.gold_facts)
        given = read_question(p.problem)[0]
        assert given == [read(form) for form in p.text_facts]
        assert p.text_facts in ((), p.needed_facts)
        rich += bool(p.text_facts)
    assert 0.4 * SCENES < rich < 0.6 * SCENES


def test_the_chain_of_thought_states_gold_facts_and_reckons_rightly(scenes):
    connectives = {
        "Corresponding angles are equal.",
        "Alternate angles are equal.",
        "The angle over the diameter is a right angle.",
    }
    for made in scenes:
        figure, p = Measured(made), made.problem
        assert answers.extract_answer(p.cot) == p.answer == str(made.teacher.answer)
        think = re.fullmatch(r"<think>\n(.*)\n</think>\n<answer>\n.*\n</answer>", p.cot, re.DOTALL)
        lines = think[1].split("\n")
        count = len(p.gold_facts)
        stated, steps = lines[:count], lines[count:]
        assert [str(facts.from_sentence(line)) for line in stated] == list(p.gold_facts)
        assert [read(line, SENTENCES) for line in stated] == [read(f) for f in p.gold_facts]
        assert steps
        for sentence in re.findall(r"\S[^.]*\.", "\n".join(steps)):
            if sentence.startswith("So "):
                assert figure.holds("T" + sentence.removeprefix("So t"), SENTENCES), (sentence, p)
            elif sentence not in connectives:
                _check_sum(sentence)
        made_of = (made.teacher.wrong, made.teacher.left_out, made.teacher.error)
        assert made_of == ((), (), None)


def _check_sum(sentence):
    """`The sum is 3 + 4 = 7.`, `(180 - 40) / 2 = 70.`"""
    found = re.fullmatch(r"(?:The (?:perimeter|area|sum) is )?([\d ()+*/^=-]+)\.", sentence)
    assert found and "=" in found[1], sentence
    sides = [
        Fraction(eval(s.replace("^", "**"))) for s in found[1].split("=")
    ]  # digits and signs alone
    assert len(set(sides)) == 1, sentence


def test_ids_are_distinct_and_splits_named(scenes):
    assert len({made.problem.id for made in scenes}) == len(scenes)
    assert Counter(made.problem.split for made in scenes) == SPLITS


# --- seeds and splits -------------------------------------------------------------------------------


def _digest(problems):
    rows = [(p.model_dump(exclude={"images"}), [i.hex() for i in p.images]) for p in problems]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def test_identical_seeds_give_identical_bytes_and_others_do_not():
    config = WorldConfig(seed=4)
    assert _digest(make_problems(40, config)) == _digest(make_problems(40, WorldConfig(seed=4)))
    assert _digest(make_problems(40, config)[:7]) == _digest(make_problems(7, config))
    other = make_problems(40, WorldConfig(seed=5))
    assert all(p.images != q.images for p, q in zip(make_problems(40, config), other, strict=True))


def test_identical_bytes_in_another_process(run_python):
    code = (
        "import hashlib\n"
        "from perception_r1.world import make_problems\n"
        "print(hashlib.sha256(b''.join(p.images[0] + p.cot.encode() for p in make_problems(25))).hexdigest())"
    )
    here = hashlib.sha256(b"".join(p.images[0] + p.cot.encode() for p in make_problems(25)))
    assert run_python(code, PYTHONHASHSEED="7") == here.hexdigest()


@pytest.fixture
def run_python():
    """Run code in a fresh interpreter: what it prints."""

    def run(code, **environment):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    return run


def canonical(problem):
    """Family and facts up to symmetry, read by this file's own eyes."""
    keys = []
    for form in problem.gold_facts:
        kind, *x = read(form)
        if kind == "angle":
            keys.append((kind, x[1], frozenset((x[0], x[2])), x[3]))
        elif kind in ("equal", "perpendicular", "parallel"):
            keys.append((kind, frozenset((side(*x[:2]), side(*x[2:])))))
        elif kind == "length":
            keys.append((kind, side(*x[:2]), x[2]))
        else:
            keys.append((kind, x[0], frozenset(x[1:])))
    return problem.family, frozenset(keys)


def test_splits_are_disjoint_across_seeds_and_dials():
    # few figures are possible, so that one seed meets those of another
    few = dict(
        families=("triangle", "rectangle"),
        questions=("two sides", "third angle", "perimeter"),
        labels=(5, 10),
        angles=(50, 60),
        letters="ABCDE",
        image_size=160,
    )
    dials = (
        {"seed": 1},
        {"seed": 2, "text_rich": 1.0, "slop": 0.5, "turn": 45},
        {"seed": 3, "shuffle": False, "teacher_error_rate": 0.5, "image_size": 224},
        {"seed": 4, "distractors": 2, "unseen": "values"},
    )
    found = {split: Counter() for split in SPLITS}
    for dial in dials:
        for split in SPLITS:
            made = make_problems(40, WorldConfig(**{**few, **dial}), split)
            found[split].update({canonical(problem) for problem in made})
    for one, other in itertools.combinations(SPLITS, 2):
        assert not found[one].keys() & found[other].keys()
    assert sum(n > 1 for split in found.values() for n in split.values()) > 10  # they do meet


def test_unseen_positions_are_turned_further_than_all_others():
    config = WorldConfig(seed=8, turn=10, image_size=224)
    for split in SPLITS:
        for made in make_world(40, config, split):
            # the drawing really has this pose
            drawing = draw.layout(made.scene, 224, made.pose)
            assert draw.png(draw.render(drawing)) == made.problem.images[0]
            turn = abs(made.pose.turn)
            assert turn >= 15 if split == "test_unseen" else turn <= 10


def test_the_pose_turns_the_drawing():
    made = next(make_world(1, WorldConfig(families=("rectangle",), turn=0)))

    def slopes(turn):
        paths = draw.layout(made.scene, 336, Pose(turn)).paths
        return [math.degrees(math.atan2(*(path[1] - path[0])[::-1])) for path in paths[:4]]

    for before, after in zip(slopes(0), slopes(7), strict=True):
        assert math.isclose((before - after) % 360, 7, abs_tol=1e-6)  # y points downwards


def test_unseen_values_stand_in_every_unseen_figure_and_nowhere_else():
    config = WorldConfig(seed=8, unseen="values", image_size=224)
    for split in SPLITS:
        for made in make_problems(50, config, split):
            values = [int(n) for form in made.gold_facts for n in re.findall(r"\d+", form)]
            held_out = [v for v in values if v >= 10 and v % 7 == 3]
            assert bool(held_out) == (split == "test_unseen")


# --- dials ------------------------------------------------------------------------------------------


def plausible(hits, trials, rate):
    """Whether that many hits are no surprise at this rate (two-sided, one in 10,000)."""
    return stats.binomtest(hits, trials, rate).pvalue > 1e-4


def many(n=250, **dials):
    """Small pages and few families, to save time."""
    dials = {"families": ("triangle", "rectangle"), "image_size": 160, "seed": 21, **dials}
    return list(make_world(n, WorldConfig(**dials)))


@pytest.mark.parametrize("rate", [0, 0.2, 1])
def test_text_rich_is_the_share_of_questions_that_give_the_needed_facts(rate):
    made = many(text_rich=rate)
    rich = sum(bool(read_question(m.problem.problem)[0]) for m in made)
    assert plausible(rich, len(made), rate)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_distractors_bound_what_is_drawn_beside_the_needed(count):
    extra = []
    for made in many(150, distractors=count):
        unneeded = set(made.problem.gold_facts) - set(made.problem.needed_facts)
        extra.append(sum(read(form)[0] in ("length", "angle") for form in unneeded))
    assert max(extra) == min(count, 2)  # no figure of these families offers more than two
    assert (sum(extra) > 0.7 * len(extra)) == (count > 0)


@pytest.mark.parametrize("rate", [0, 0.05, 0.5, 1])
def test_teacher_error_rate_plants_one_wrong_value(rate):
    made = many(teacher_error_rate=rate)
    wrong, lucky, follows = 0, 0, 0
    for m in made:
        gold, stated = set(m.problem.gold_facts), _stated(m)
        bad = stated - gold
        assert bad == set(m.teacher.wrong) and len(bad) == (m.teacher.error is not None)
        assert len(stated) == len(gold)
        right = answers.extract_answer(m.problem.cot) == m.problem.answer
        assert right == (m.teacher.error != "follows")
        if bad:
            (false,) = bad
            assert any(facts.contradicts(facts.parse(false), facts.parse(g)) for g in gold)
        wrong += bool(bad)
        lucky += m.teacher.error == "lucky"
        follows += m.teacher.error == "follows"
    assert plausible(wrong, len(made), rate)
    assert not rate or (lucky > 0 and follows > 0)


def _stated(made):
    """Facts that the chain of thought states, read back from its sentences."""
    found = set()
    for line in made.problem.cot.split("\n"):
        if any(re.fullmatch(pattern, line) for pattern in SENTENCES.values()):
            found.add(str(facts.from_sentence(line)))
    return found


def test_a_planted_error_prefers_facts_that_do_not_stand_in_the_question():
    for made in many(200, teacher_error_rate=1, text_rich=1):
        p = made.problem
        (wrong,) = made.teacher.wrong
        (true,) = set(p.gold_facts) - _stated(made)
        valued = {form for form in p.gold_facts if read(form)[0] in ("length", "angle")}
        assert true not in p.text_facts or valued <= set(p.text_facts), wrong


@pytest.mark.parametrize("where", ["needed", "unneeded", "both"])
@pytest.mark.parametrize("slop", [0.25, 1])
def test_slop_leaves_out_or_misreads_that_share_of_the_facts_in_reach(where, slop):
    touched, reach, misread = 0, 0, 0
    for made in many(slop=slop, slop_on=where, seed=22):
        p = made.problem
        needed, gold, stated = set(p.needed_facts), set(p.gold_facts), _stated(made)
        lost = gold - stated
        inside = {"needed": needed, "unneeded": gold - needed, "both": gold}[where]
        assert lost <= inside
        touched, reach = touched + len(lost), reach + len(inside)
        misread += len(stated - gold)
        assert stated == set(made.teacher.stated)
        assert len(made.teacher.left_out) == len(lost) - len(stated - gold)
        if where == "unneeded":
            assert answers.extract_answer(p.cot) == p.answer
    assert plausible(touched, reach, slop)
    assert 0 < misread < touched


def test_a_dial_of_the_teacher_leaves_figures_and_questions_alone():
    plain, sloppy = many(60), many(60, slop=0.5, teacher_error_rate=0.5)
    for one, other in zip(plain, sloppy, strict=True):
        same = {"images", "problem", "answer", "gold_facts"}
        assert one.problem.model_dump(include=same) == other.problem.model_dump(include=same)


def test_labels_letters_angles_and_size_are_kept():
    dials = dict(labels=(4, 17), angles=(50, 120), letters="PQRSTUVWXY", image_size=224)
    for p in make_problems(80, WorldConfig(**dials)):
        assert p.image.size == (224, 224)
        for form in p.gold_facts:
            kind, *x = read(form)
            assert set("".join(x)) <= set("PQRSTUVWXYO0123456789")
            assert kind != "length" or 4 <= int(x[-1]) <= 17
            assert kind != "angle" or 50 <= int(x[-1]) <= 120


def test_questions_pick_what_is_asked():
    made = many(30, questions=("area",))
    assert {m.question for m in made} == {"area"}


@pytest.mark.parametrize(
    "dials, names",
    [
        ({"families": ("triangle", "pentagon")}, "families|pentagon"),
        ({"families": ()}, "families"),
        ({"families": ("circle", "circle")}, "families"),
        ({"questions": ("volume",)}, "question"),
        ({"questions": ("area", "volume"), "families": ("triangle",)}, "question.*volume"),
        ({"labels": (9, 3)}, "labels"),
        ({"labels": (0, 3)}, "labels"),
        ({"labels": (1, 1000)}, "labels"),
        ({"labels": (1,)}, "labels"),
        ({"labels": "short"}, "labels"),
        ({"labels": (1.5, 9)}, "labels"),
        ({"angles": (5, 90)}, "angles"),
        ({"angles": (40, 180)}, "angles"),
        ({"letters": "AB"}, "letters"),
        ({"letters": "ABCO"}, "letters"),
        ({"letters": "AABC"}, "letters"),
        ({"letters": "abcd"}, "letters"),
        ({"image_size": 10}, "image_size"),
        ({"image_size": 10**6}, "image_size"),
        ({"turn": -1}, "turn"),
        ({"turn": 90}, "turn"),
        ({"text_rich": 1.1}, "text_rich"),
        ({"text_rich": float("nan")}, "text_rich"),
        ({"distractors": -1}, "distractors"),
        ({"distractors": 9}, "distractors"),
        ({"teacher_error_rate": 2}, "teacher_error_rate"),
        ({"slop": -0.1}, "slop"),
        ({"slop_on": "some"}, "slop_on"),
        ({"unseen": "colours"}, "unseen"),
        ({"unseen": "values", "labels": (2, 9)}, "unseen.*labels"),
        ({"seed": "one"}, "seed"),
        ({"sloppiness": 0.5}, "sloppiness"),
    ],
)
def test_a_bad_dial_is_named(dials, names):
    with pytest.raises(InputError, match=names):
        WorldConfig(**dials)


def test_impossible_wishes_are_said_to_be_so():
    with pytest.raises(InputError, match="no split 'validation'.*train"):
        make_problems(1, split="validation")
    with pytest.raises(InputError, match="letters='ABC'"):
        make_problems(1, WorldConfig(families=("parallel_lines",), letters="ABC"))
    narrow = WorldConfig(families=("triangle",), questions=("area",), labels=(1, 1))
    with pytest.raises(InputError, match=r"no figure of 'triangle'.*'train'.*\(1, 1\).*widen"):
        make_problems(1, narrow)
    assert make_problems(0) == []


# --- drawings ---------------------------------------------------------------------------------------

TOO_LARGE = {"radius"}  # for labels and page of TINY; so is a trapezoid's area
TINY_FAMILIES = tuple(family for family in FAMILIES if family != "trapezoid")
TINY_QUESTIONS = tuple(
    dict.fromkeys(q for f in TINY_FAMILIES for q in FAMILIES[f] if q not in TOO_LARGE)
)


TINY = {
    "families": TINY_FAMILIES,
    "questions": TINY_QUESTIONS,
    "image_size": 112,
    "labels": (1, 9),
    "angles": (25, 140),
}


def _drawings(n, **dials):
    config = WorldConfig(seed=31, distractors=2, **dials)
    for made in make_world(n, config):
        yield made, draw.layout(made.scene, config.image_size, made.pose)


def _check_drawing(made, drawing):
    size = drawing.size
    strokes = np.array(draw.render(drawing, labels=False).convert("L"))
    page = np.array(draw.render(drawing).convert("L"))
    assert page.shape == (size, size)
    outside = np.ones((size, size), bool)
    for label in drawing.labels:
        left, top, right, bottom = label.box
        assert 0 < left < right < size and 0 < top < bottom < size
        assert (strokes[top:bottom, left:right] == 255).all(), (label, made.problem.id)
        assert (page[top:bottom, left:right] < 128).any()
        assert outside[top:bottom, left:right].all(), f"{label} overlaps another"
        outside[top:bottom, left:right] = False
    assert (page[outside] == strokes[outside]).all()  # no text outside its box


def _check_texts(made, drawing):
    """One label for each value and each point, and no other."""
    wanted = Counter(list(made.scene.points))
    for form in made.problem.gold_facts:
        kind, *x = read(form)
        if kind in ("length", "angle"):
            wanted[x[-1] + "°" * (kind == "angle")] += 1
    assert Counter(label.text for label in drawing.labels) == wanted


@pytest.mark.parametrize("dials, n", [({"image_size": 336}, 200), (TINY, 300)])
def test_labels_keep_off_strokes_and_off_each_other(dials, n):
    for made, drawing in _drawings(n, **dials):
        _check_drawing(made, drawing)
        _check_texts(made, drawing)


def test_a_label_stands_nearest_to_what_it_names(mixed):
    near = total = 0
    for made in mixed:
        drawing = draw.layout(made.scene, 336, made.pose)
        for label in drawing.labels:
            if label.text in made.scene.points:
                total += 1
                near += _nearest_point(made, drawing, label) == label.text
    assert near > 0.98 * total


def _nearest_point(made, drawing, label):
    """The point whose place on the page is nearest to the label; places follow from the strokes."""
    at = {}
    for stroke, path in zip(made.scene.strokes, drawing.paths, strict=False):
        for name, place in zip(stroke, path, strict=True):
            at[name] = complex(*place)
    known = [name for name in made.scene.points if name in at]
    if label.text not in known:
        return label.text
    left, top, right, bottom = label.box
    middle = complex((left + right) / 2, (top + bottom) / 2)
    return min(known, key=lambda name: abs(at[name] - middle))


# --- redraw -----------------------------------------------------------------------------------------


def test_redraw_changes_one_label(mixed, monkeypatch):
    drawn = []
    render = draw.render
    monkeypatch.setattr(draw, "render", lambda drawing: drawn.append(drawing) or render(drawing))
    for made in mixed[:60]:
        form = next(f for f in made.problem.gold_facts if read(f)[0] in ("length", "angle"))
        kind, *x = read(form)
        old, degree = int(x[-1]), "°" * (kind == "angle")
        new = old + 1 if old % 10 != 9 else old - 1
        assert redraw(made, form, old) == made.problem.images[0] != (png := redraw(made, form, new))
        assert Image.open(io.BytesIO(png)).size == (336, 336)
        before, after = drawn[-2:]
        texts = [Counter(label.text for label in drawing.labels) for drawing in (before, after)]
        assert texts[0] - texts[1] == Counter([f"{old}{degree}"])
        assert texts[1] - texts[0] == Counter([f"{new}{degree}"])
        for k in range(len(made.scene.strokes)):  # the figure itself stays
            assert (before.paths[k] == after.paths[k]).all()


def test_redraw_refuses_what_has_no_label(mixed):
    made = mixed[0]
    with pytest.raises(InputError, match="no label"):
        redraw(made, "Equals(LengthOf(Line(Y, Z)), 7)", 8)
    unvalued = [(m, f) for m in mixed for f in m.problem.gold_facts if not re.search(r"\d", f)]
    with pytest.raises(InputError, match="no label"):
        redraw(*unvalued[0], 8)
    form = next(f for f in made.problem.gold_facts if re.search(r"\d", f))
    with pytest.raises(InputError, match="no room|no label"):
        redraw(made, form, 10**30)


def test_scenes_are_plain_values(mixed):
    made = mixed[0]
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.scene.facts = ()
