"""Our rules, by hand: what is taken for the answer, which option it means, whether it is right; and anything at all."""

import dataclasses

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perception_r1.evaluation.official_rules import OFFICIAL
from perception_r1.evaluation.our_rules import Item, choose, extract, ours, why_different

LENGTHS = ("7 cm", "12 cm", "\\frac{7}{9}", "25 cm")


def item(options=(), answer="B", answer_type="text", precision=None, name="1") -> Item:
    return Item(name, "What?", tuple(options), answer, (), {}, answer_type, precision)


COUNTED = "One counts up and up and gets 5 here and no more in the end, however long one looks"
RED_OR_BLUE, NUMBER = {"options": ("the red one", "the blue one", "the last")}, {"number": True}


@pytest.mark.parametrize(
    ("response", "wanted", "answer"),
    [
        ("<answer>the answer is C</answer>", {}, "C"),
        ("So it is <|begin_of_box|>C<|end_of_box|>.", {}, "C"),
        ("The answer is A.\nWait. The answer is B.", {}, "B"),
        ("One answer is 3, but the correct answer is B", {}, "B"),
        ("The correct option is (D) 7 cm. It fits.", {}, "(D) 7 cm"),
        ("Thinking.\nThe best choice would be B", {}, "B"),
        ("12 cm\nLet me know if it helps.", {}, "12 cm"),
        ("Counting them all.\nSo there are **12** of them.", {}, "12"),
        ("", {}, None),
        ("I cannot see any image.\nPlease send it to me again, since I would need it.", {}, None),
        ("B\nThat is what I see.", RED_OR_BLUE, "B"),
        ("B. because it is", RED_OR_BLUE, "B"),
        ("(A) is too short.\n(B) fits.\nSo it must be (B).", RED_OR_BLUE, "B"),  # all are gone through
        ("One takes (A), or no, one had better take (B) here and be done with it", RED_OR_BLUE, "B"),
        ("First we count them all.\nTherefore it must be the red one.", RED_OR_BLUE, "A"),
        ("It may be the red one or the blue one.\nThis can not be told from the image at all.", RED_OR_BLUE, None),
        (COUNTED, {"options": ("5", "7")}, None),  # one character is not looked for in a sentence
        (COUNTED, {"options": ("5 here", "7 here")}, "A"),
        ("We count them one by one, and then there are 12 dots in all.", NUMBER, "12"),
        ("Counting row by row gives 4, 4 and 5; in the picture one sees 13 dots.", NUMBER, "13"),
        ("We look again.\nOne may call it **large**, but one sees 3 dots in the picture.", NUMBER, "3"),
    ],
)  # fmt: skip
def test_what_is_extracted_with_options_for_a_number_and_without(response, wanted, answer):
    assert extract(response, **wanted) == answer


def test_the_type_of_the_answer_says_whether_a_number_is_wanted():
    response = "Counting row by row gives 4, 4 and 5; in the picture one sees 13 dots."
    assert ours(response, item((), "13", "integer")) == ("13", True)
    assert ours(response, item((), "13", "float", 1)) == ("13", True)
    assert ours(response, item((), "13")) == (None, False)


RIGHT = [
    "\\boxed{b}", "\\boxed{B. 12 cm}", "\\boxed{12 cm}", "\\boxed{12}", "\\boxed{12\\text{ cm}}", "**Answer:** B",
    "The answer is (B) 12 cm.", "<answer>B</answer>", "\\boxed{A} \\boxed{B}", "(B)", "12 cm",
    "The correct choice is 12 cm.",
]  # fmt: skip
WRONG = [
    "\\boxed{E}", "\\boxed{B or A}", "\\boxed{B and C}", "\\boxed{(B) & (C)}", "\\boxed{(B) (C)}",
    "The answer is A or B.", "The answer is not B.", "\\boxed{B} \\boxed{A}", "\\boxed{7 cm}", "\\boxed{}",
    "I cannot determine the answer from the image.", "Both 7 cm and 12 cm are possible.",
]  # fmt: skip


@pytest.mark.parametrize("response", RIGHT + WRONG)
def test_the_right_option_in_many_forms_and_what_is_wrong_hedged_or_refused(response):
    assert ours(response, item(LENGTHS))[1] is (response in RIGHT)


@pytest.mark.parametrize(
    ("answer", "options", "letter"),
    [
        ("\\frac{14}{18}", ["1", "2", "3", "\\frac{7}{9}"], "D"),  # by its value
        ("No, there are none", ["Yes", "No"], "B"),
        ("maybe", ["Yes", "No"], None),
        ("18", ["9", "18", "18"], None),  # not clear which
        ("f(2) = 5", ["3", "5", "7"], "B"),  # a name is no letter of an option
        ("BC", ["AB", "BC", "CD"], "B"),
        ("C", ["C", "A", "B"], "C"),  # a bare letter is one
        ("the C", ["the A", "the C"], "B"),
        ("3.14 cm", ["31.4", "3.14", "314"], "B"),
    ],
)
def test_which_option_is_meant(answer, options, letter):
    assert choose(answer, options) == letter


@pytest.mark.parametrize(
    ("answer", "gold", "kind", "precision", "verdict"),
    [
        ("3 bars", "3", "integer", None, True),
        ("\\$1,200", "1200", "integer", None, True),
        ("\u22125", "-5", "integer", None, True),
        ("2\\pi", "2", "integer", None, False),  # a number with what belongs to it
        ("1.46", "1.5", "float", 1, True),
        ("1.44", "1.5", "float", 1, False),
        ("0.754 m", "0.75", "float", 2, True),
        ("1, 2", "[1, 2]", "list", None, True),
        ("one and two", "[1, 2]", "list", None, False),
        ("[" + "9" * 400 + "]", "[1, 2]", "list", None, False),  # too large for a float
        ("Florida", "['Tampa', 'Florida']", "text", None, True),  # one of several right answers
        ("Miami", "['Tampa', 'Florida']", "text", None, False),
        ("15", "1.5", "text", None, False),
        ("2^{1}0", "2^{10}", "text", None, False),
    ],
)
def test_values(answer, gold, kind, precision, verdict):
    assert ours(f"\\boxed{{{answer}}}", item((), gold, kind, precision))[1] is verdict


@pytest.mark.parametrize(
    ("official", "our_answer", "why"),
    [
        ("B", None, "ours finds no answer"),
        ("", "B", "theirs finds no answer"),
        ("A", "B", "taken from different places"),
        ("near", "nearest", "no option is meant"),
        ("(b)12cm", "(B) 12 cm", "an option's letter beside its text"),
        ("12cm", "12 \\text{ cm}", "units, LaTeX or an option's text"),
    ],
)
def test_why_the_two_methods_differ(official, our_answer, why):
    assert why_different(item(["7 cm", "12 cm"]), official, our_answer).startswith(why)
    assert why_different(item((), "1.5"), "1.46", "1.46") == "rounding"


PLANETS = ("Mercury is near", "Venus is hot", "Earth has water", "Mars is red")
RAYS = ("alpha ray", "beta ray", "gamma ray", "delta ray", "epsilon ray", "zeta ray", "eta ray")

# (response, gold, right?) with options, after kinds of public bug reports
NAMING = [
    ("<think>maybe the answer is C</think>\nB", "B", True),  # thoughts are over
    ("B, because it is hot.", "B", True),
    ("The answer is more likely B than C", "B", True),
    ("The answer is B, not C.", "B", True),
    ("I'd pick option B because it is hot.", "B", True),
    ("A car moves.", "A", False),
    ("Option B, Venus is hot, is correct.", "B", True),
    ("Option B is not correct.", "B", False),
    ("Answer: <b>B</b>", "B", True),
    ("\\boxed{\\text{Option B}}", "B", True),
    ("\\boxed{\\langle H\\rangle \\ll E}.\n\n**Answer: D**", "D", True),  # a box of working
    ("\\boxed{F=ma}\n\n(D)", "D", True),
    ("The answer cannot be B.", "B", False),  # denied
    ("(B) can be ruled out.", "B", False),
    ("Everything except B.", "B", False),
    ("It is not A but B.", "B", True),
    ("We can rule out A, B and C, leaving D.", "D", True),
    ("\\boxed{0}. If it rained, the answer would be B.", "B", False),
    ("Both (A) and (B)", "B", False),  # several
    ("None of A, B and C is correct.", "C", False),
    ("A. Mercury is near\nB. Venus is hot\nC. Earth has water\nD. Mars is", "D", False),  # a list
    ("(A) Mercury is near (B) Venus is hot (C) Earth has water (D) Mars is red", "D", False),
    ("A. Mercury\nB. Venus is hot\nC. Earth has water\nD. Mars is red\nAnswer: C", "C", True),
    ("故选 B。", "B", True),
    ("选项B是正确答案。", "B", True),
    ("答案不是B。", "B", False),
    ("正確答案為「B」。", "B", True),
]


# (response, gold, right?) without options
SAYING = [
    ("The answer is 12 because 3 times 4 is 12.", "12", True),
    ("The answer is 12 (3 times 4).", "12", True),
    ("It takes 30 minutes.", "0.5 h", True),
    ("Total: 12", "12", True),
    ("Answer: m+n = 256+37 = 293", "293", True),
    ("The answer is 12 or 13.", "12", False),
    ("We have 5 cars and 3 buses.", "5", False),
    ("It is the left lung.", "left lung", True),
    ("共有12个三角形。", "12", True),
]


# (response, gold, right?) where a number is wanted
COUNTING = [
    ("There are 3 bars below 40 in the image.", "3", True),
    ("There are 3 bars below 40 in the image.", "40", False),
    ("After all of that, and whatever one may do, there are two left on the table.", "2", True),
    ("There are two red and three blue ones.", "2", False),
    ("Some are 53.5% and others 46.5%. So, the difference is 53.5% - 46.5% = 7%.", "7", True),
]
# (response, gold, right?): articles, letters beyond E, a letter that no option has
BEYOND = [
    ("The answer is the beta ray.", "B", True),
    ("\\boxed{\\text{(G) eta}}", "G", True),
    ("(F) zeta ray", "F", True),
    ("(Z) gamma ray", "C", True),
]
WRITTEN = [
    (item(options, gold, kind), response, right)
    for options, kind, rows in (
        (PLANETS, "text", NAMING), ((), "text", SAYING), ((), "integer", COUNTING), (RAYS, "text", BEYOND),
    )
    for response, gold, right in rows
]  # fmt: skip


@pytest.mark.parametrize(("it", "response", "right"), WRITTEN)
def test_answers_as_models_write_them(it, response, right):
    assert ours(response, it)[1] is right


FEW = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
WORDS = st.sampled_from(
    "A B (C) \\boxed{ } { <answer> </answer> answer is: 1,2 3/0 -0.5 [1, ] = \\frac{1} ** .".split(" ")
    + ["\n", "or", "\\text{", "e9", "²", "٣"]
)  # fmt: skip
ANY = st.one_of(st.text(max_size=40), st.lists(WORDS, max_size=12).map(" ".join))
KINDS = [
    item(["7 cm", "12 cm", "x", "Yes"]), item(list("ABCDE"), "D"), item(["C", "A", "B"], "A"), item((), "12"),
    item((), "12", "integer"), item((), "1.5", "float", 1), item((), "[1, 2]", "list"), item((), "a red cat"),
]  # fmt: skip


@FEW
@given(ANY, st.sampled_from(KINDS))
def test_no_response_breaks_ours(response, it):
    answer, verdict = ours(response, it)
    assert (answer is None or isinstance(answer, str)) and isinstance(verdict, bool)
    assert answer is not None or not verdict
    assert isinstance(why_different(it, response, answer), str)


@FEW
@given(ANY)
def test_no_response_breaks_the_authors_rules(response):
    for it in KINDS[:2]:
        for rules in OFFICIAL.values():
            answer, verdict = rules(response, dataclasses.replace(it, answer="B"))
            assert (answer is None or isinstance(answer, str)) and isinstance(verdict, bool)
    for name in ("mathvision", "mmmu", "emma"):
        assert isinstance(OFFICIAL[name](response, KINDS[3])[1], bool)
    for it in KINDS[4:7]:
        assert isinstance(OFFICIAL["mathvista"](response, it)[1], bool)


@pytest.mark.parametrize(
    "text", ["9" * 5000, "(" * 3000, "\\boxed{" * 2000, "is " * 2000 + "=", "answer is" + " :" * 2000]
)  # fmt: skip
def test_long_and_deep_responses_are_read(text):
    for it in KINDS:
        assert ours(text, it)[1] is False
