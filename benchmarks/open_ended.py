"""Open-ended tasks, judged by rule: 36 prompts of six kinds, each with conditions that a program can check.

    marco evaluate --task benchmarks/open_ended.py --strategy cot --strategy self-consistency --strategy mcts \
      --select consensus --out DIR

There is no one right answer to any of them: write a text of a given form, without certain letters, in a given
language, as data of a given shape, by a plan or a puzzle with many solutions. An answer counts if it meets **all** of
its conditions and not otherwise. The rule says nothing about whether a text is good, true or well written; it is
declared here, and gives the same verdict every time. Words are runs of letters, digits and apostrophes; lines are
those that hold anything. A fence of Markdown around the answer is taken off before it is looked at.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any

answer_kind = "text"

Check = Callable[[str], bool]


def load() -> Iterator[dict[str, Any]]:
    for kind, prompts in PROMPTS.items():
        for question, checks in prompts:
            yield {"question": question, "kind": kind, "checks": checks}


def score(answer: str | None, row: Mapping[str, Any]) -> bool:
    if answer is None:
        return False
    text = bare(answer)
    return bool(text) and all(check(text) for check in row["checks"])


def bare(answer: str) -> str:
    """The answer without white space around it or a fence of Markdown."""
    fenced = re.fullmatch(r"```\w*\n(.*?)\n?```", answer.strip(), re.DOTALL)
    return (fenced.group(1) if fenced else answer).strip()


def words_of(text: str) -> list[str]:
    return re.findall(r"[^\W_]+(?:['’][^\W_]+)*", text)


def lines_of(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def items_of(text: str) -> list[str]:
    """Lines without the number or the bullet they begin with."""
    return [re.sub(r"^(?:\d+[.)]|[-*•])\s*", "", line).strip() for line in lines_of(text)]


# -- conditions --------------------------------------------------------------------------------------------------------


def words(least: int, most: int) -> Check:
    return lambda text: least <= len(words_of(text)) <= most


def lines(count: int) -> Check:
    return lambda text: len(lines_of(text)) == count


def words_a_line(*counts: int) -> Check:
    return lambda text: [len(words_of(line)) for line in lines_of(text)] == list(counts)


def sentences(count: int) -> Check:
    return lambda text: len(re.findall(r"[.!?]+(?=\s|$)", text)) == count


def holds(*parts: str) -> Check:
    return lambda text: all(part.casefold() in text.casefold() for part in parts)


def without(*parts: str) -> Check:
    return lambda text: not any(part.casefold() in text.casefold() for part in parts)


def begins(part: str) -> Check:
    return lambda text: text.casefold().startswith(part.casefold())


def ends(part: str) -> Check:
    return lambda text: text.rstrip(" .!?\"'").casefold().endswith(part.casefold())


def initials(letters: str) -> Check:
    """Each line begins with the next of these letters."""
    return lambda text: "".join(line[0] for line in items_of(text) if line).casefold() == letters.casefold()


def no_letter(letter: str) -> Check:
    return lambda text: letter not in text.casefold()


def in_order(text: str) -> bool:
    found = [line.casefold() for line in items_of(text)]
    return found == sorted(found)


def distinct(text: str) -> bool:
    found = [line.casefold() for line in items_of(text)]
    return len(set(found)) == len(found)


def exactly(*parts: str) -> Check:
    """The lines are these, in whatever order."""
    return lambda text: sorted(line.casefold() for line in items_of(text)) == sorted(part.casefold() for part in parts)


def script(pattern: str, share: float = 0.7) -> Check:
    """Of all letters at least this share are of a script."""

    def check(text: str) -> bool:
        letters = [letter for letter in text if letter.isalpha()]
        return bool(letters) and sum(bool(re.match(pattern, letter)) for letter in letters) >= share * len(letters)

    return check


HAN = "[\u4e00-\u9fff]"
JAPANESE = "[\u3040-\u30ff\u4e00-\u9fff]"
CYRILLIC = "[\u0400-\u04ff]"
LATIN = "[A-Za-z\u00c0-\u024f]"


def data(check: Callable[[Any], bool]) -> Check:
    def parsed(text: str) -> bool:
        try:
            return bool(check(json.loads(text)))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return False

    return parsed


def table(columns: int, rows: int) -> Check:
    """A table of Markdown with a heading."""

    def check(text: str) -> bool:
        found = [line for line in lines_of(text) if line.startswith("|")]
        cells = [len(line.strip("|").split("|")) for line in found]
        return len(found) == rows + 2 and set(cells) == {columns} and bool(re.fullmatch(r"[|\s:-]+", found[1]))

    return check


def reaches(target: int, numbers: list[int], *, all_of_them: bool = False) -> Check:
    """The last line is an expression over the numbers, each used at most once, that has this value."""

    def check(text: str) -> bool:
        expression = lines_of(text)[-1].split("=")[0].translate(str.maketrans({"×": "*", "÷": "/", "−": "-"}))
        try:
            value, used = _value(ast.parse(expression.strip(), mode="eval").body)
        except (SyntaxError, ValueError, ZeroDivisionError, RecursionError):
            return False
        left = list(numbers)
        for number in used:
            if number not in left:
                return False
            left.remove(number)
        return value == target and not (all_of_them and left)

    return check


def _value(node: ast.expr) -> tuple[Fraction, list[int]]:
    """Value of an expression of whole numbers and + - * /, and the numbers in it."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return Fraction(node.value), [node.value]
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        (left, first), (right, second) = _value(node.left), _value(node.right)
        return _OPERATORS[type(node.op)](left, right), first + second
    raise ValueError("not such an expression")


_OPERATORS: Mapping[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
}


def order(names: str, *rules: tuple[str, str]) -> Check:
    """The lines are these names, and of each pair the first stands before the second."""
    wanted = names.split()

    def check(text: str) -> bool:
        found = [line.casefold().strip(" .") for line in items_of(text)]
        return sorted(found) == sorted(name.casefold() for name in wanted) and all(
            found.index(first.casefold()) < found.index(second.casefold()) for first, second in rules
        )

    return check


def numbers(check: Callable[[list[int]], bool]) -> Check:
    """The whole numbers in the text, in their order."""
    return lambda text: check([int(found) for found in re.findall(r"-?\d+", text)])


# -- prompts -----------------------------------------------------------------------------------------------------------

PROMPTS: dict[str, list[tuple[str, list[Check]]]] = {
    "form": [
        ("Write a short poem about rain. It has exactly four lines, and nothing else is said.", [lines(4)]),
        ("Describe the sea in exactly one sentence of 10 to 15 words.", [sentences(1), words(10, 15)]),
        (
            "Write three lines about winter with exactly 3, 5 and 3 words. Say nothing else.",
            [words_a_line(3, 5, 3)],
        ),
        ("Explain to a child why the sky is blue, in exactly three sentences.", [sentences(3)]),
        ("Tell a story about a lost key in 40 to 60 words.", [words(40, 60)]),
        (
            "Write an acrostic on the word TREE: four lines, the first letters of which spell TREE.",
            [lines(4), initials("tree")],
        ),
    ],
    "words": [
        ("Describe a cat in one sentence without using the letter o anywhere.", [no_letter("o"), words(5, 40)]),
        ("Praise a friend's cooking in 10 to 30 words without the letter k.", [no_letter("k"), words(10, 30)]),
        (
            "Write two sentences about a market that hold the words lantern, onion and whistle.",
            [sentences(2), holds("lantern", "onion", "whistle")],
        ),
        (
            "Sell a bicycle in at most 30 words, pedals among them, without the words bike, bicycle, wheel or ride.",
            [words(5, 30), holds("pedals"), without("bike", "bicycle", "wheel", "ride")],
        ),
        ("Write one sentence that begins with Although and ends with the word home.",
         [begins("although"), ends("home")]),
        (
            "Congratulate somebody on a new job in 15 to 40 words without the words congratulations or happy.",
            [words(15, 40), without("congratulation", "happy")],
        ),
    ],
    "lists": [
        ("List five animals in alphabetical order, one a line, and nothing else.", [lines(5), in_order, distinct]),
        ("Name four uses of an old newspaper, one a line, 2 to 6 words each.", [lines(4), distinct, words(8, 28)]),
        (
            "Sort these words alphabetically, one a line, and write nothing else: pear, fig, lemon, apple, date",
            [exactly("pear", "fig", "lemon", "apple", "date"), in_order],
        ),
        ("Name six countries that begin with the letter C, one a line.", [lines(6), distinct, initials("cccccc")]),
        ("Give three pieces of advice for sleeping better, numbered 1., 2. and 3., one line each.",
         [lines(3), holds("1.", "2.", "3.")]),
        ("List seven colours, one a line, none twice, none of them red or blue.",
         [lines(7), distinct, lambda text: not {"red", "blue"} & {item.casefold() for item in items_of(text)}]),
    ],
    "languages": [
        ("Write two sentences about spring in Chinese.", [script(HAN), words(1, 200)]),
        ("Describe your favourite season in Japanese in one or two sentences.", [script(JAPANESE)]),
        ("Write one sentence about a train in Russian.", [script(CYRILLIC), words(3, 40)]),
        ("Wish somebody a good journey in Spanish, in 5 to 20 words.",
         [script(LATIN), words(5, 20), lambda text: bool({"viaje", "buen", "te"} & {*words_of(text.casefold())})]),
        ("用中文写一句话介绍长城,不超过三十个字。", [script(HAN), lambda text: 5 <= len(re.findall(HAN, text)) <= 30]),
        ("用英文写一句话描述一只狗。", [script(LATIN), sentences(1), words(3, 40)]),
    ],
    "data": [
        ('Invent a person as a JSON object with the keys "name" (a string) and "age" (a whole number). Only JSON.',
         [data(lambda it: set(it) == {"name", "age"} and isinstance(it["name"], str) and type(it["age"]) is int)]),
        ("Write a JSON list of exactly three different fruits, as strings. Write only JSON.",
         [data(lambda it: isinstance(it, list) and len({*it}) == len(it) == 3 and {*map(type, it)} == {str})]),
        ("Write a Markdown table of two columns and three rows under the heading: countries and their capitals.",
         [table(2, 3)]),
        ("Write a date in the year 2031 in the form YYYY-MM-DD and nothing else.",
         [lambda text: bool(re.fullmatch(r"2031-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])", text))]),
        ('Write a JSON object with the key "shopping" whose value is a list of four objects, each with "item" and '
         '"price" (a number). Write only JSON.',
         [data(lambda it: len(it["shopping"]) == 4
               and all(set(x) == {"item", "price"} and isinstance(x["price"], int | float) for x in it["shopping"]))]),
        ("Write a colour in the form #RRGGBB that is more red than blue, and nothing else.",
         [lambda text: bool(re.fullmatch(r"#[0-9A-Fa-f]{6}", text)) and int(text[1:3], 16) > int(text[5:7], 16)]),
    ],
    "puzzles": [
        ("Use some of the numbers 3, 5, 7 and 10, each at most once, with + - * / to make 22. End with the expression "
         "alone on the last line.", [reaches(22, [3, 5, 7, 10])]),
        ("Use all of the numbers 2, 4, 6 and 8, each once, with + - * / and brackets to make 24. End with the "
         "expression alone on the last line.", [reaches(24, [2, 4, 6, 8], all_of_them=True)]),
        ("Ann, Ben, Cem and Dia stand in a row. Ann is before Ben, Dia is before Ann, and Cem is not last. Write one "
         "order that fits, a name a line, and nothing else.",
         [order("Ann Ben Cem Dia", ("Ann", "Ben"), ("Dia", "Ann")), lambda text: not ends("cem")(text)]),
        ("Plan a morning: shower, breakfast, dress, leave. One showers before dressing and leaves last. Write the four "
         "words in an order that works, one a line, and nothing else.",
         [order("shower breakfast dress leave", ("shower", "dress"), ("breakfast", "leave"), ("dress", "leave"))]),
        ("Name three different whole numbers greater than 1 whose product is 60. Write the three numbers separated by "
         "commas and nothing else.",
         [numbers(lambda it: len(set(it)) == len(it) == 3 and min(it) > 1 and it[0] * it[1] * it[2] == 60)]),
        ("Write five whole numbers in rising order whose sum is 50, separated by commas, and nothing else.",
         [numbers(lambda it: len(it) == 5 and it == sorted(set(it)) and sum(it) == 50)]),
    ],
}  # fmt: skip
