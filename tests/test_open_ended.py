"""The open-ended set: every prompt has an answer that meets its rule, and answers that don't."""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path

import pytest

from marco.evaluation.tasks import open_task

PATH = Path(__file__).resolve().parent.parent / "benchmarks" / "open_ended.py"

_spec = importlib.util.spec_from_file_location("open_ended", PATH)
open_ended = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(open_ended)

ROWS = list(open_ended.load())

GOOD = [
    "Rain on the roof,\nrain on the lane,\nrain in the gutter,\nrain on the pane.",
    "The sea is wide and grey and never twice the same today.",
    "Snow falls softly\nThe fence wears a hat\nNobody walks here",
    "Sunlight has many colours. The air throws the blue ones about the most. So blue comes at you from all sides.",
    "Mara lost her key on a windy Monday. She searched the garden, the shed and the street, and even the baker helped. "
    "At noon her neighbour's dog came up, wagged his tail, and dropped something shiny at her feet. She laughed.",
    "Tall above the field\nRoots deep in the ground\nEvery bird is welcome\nEven the owl",
    "A small furry animal sleeps in the sun and hunts mice at night.",
    "Everything you put in front of me was delicious, and nobody left a single crumb on the plate.",
    "A lantern hung over the onion stall. A boy gave a whistle and ran.",
    "Two pedals, one saddle, endless mornings: glide past the traffic and smile.",
    "Although the road was long, we were glad to come home.",
    "Well done on the new job, you have earned every bit of it, and they are lucky to have you on board.",
    "1. ant\n2. bear\n3. cow\n4. dog\n5. elk",
    "wrap fragile cups\nclean the windows\nlight a stove\nfold paper hats",
    "apple\ndate\nfig\nlemon\npear",
    "Canada\nChile\nChina\nCuba\nCyprus\nChad",
    "1. Go to bed at the same hour.\n2. Keep the room dark.\n3. Leave the phone outside.",
    "green\nyellow\nblack\nwhite\npink\nbrown\ngrey",
    "春天来了,花都开了。小鸟在树上唱歌。",
    "秋が好きです。空が高くて、風が涼しいからです。",
    "Поезд медленно подошёл к станции.",
    "Te deseo un buen viaje y que vuelvas pronto.",
    "长城是中国古代修建的伟大城墙。",
    "The brown dog runs across the wet grass.",
    '{"name": "Ina", "age": 41}',
    '```json\n["fig", "plum", "kiwi"]\n```',
    "| Country | Capital |\n|---|---|\n| France | Paris |\n| Peru | Lima |\n| Japan | Tokyo |",
    "2031-02-14",
    '{"shopping": [{"item": "a", "price": 1}, {"item": "b", "price": 2.5}, {"item": "c", "price": 3}, '
    '{"item": "d", "price": 4}]}',
    "#ff8000",
    "Ten and seven and five make 22.\n10 + 7 + 5",
    "8 * 6 / (4 - 2)",
    "Dia\nAnn\nCem\nBen",
    "shower\nbreakfast\ndress\nleave",
    "2, 5, 6",
    "2, 5, 10, 13, 20",
]


def verdict(number, answer):
    return open_ended.score(answer, ROWS[number])


def test_there_are_enough_prompts_of_several_kinds():
    kinds = Counter(row["kind"] for row in ROWS)
    assert len(ROWS) >= 30
    assert len(kinds) >= 5
    assert len({row["question"] for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("number", range(len(ROWS)))
def test_an_answer_that_does_what_was_asked_counts(number):
    assert verdict(number, GOOD[number]), ROWS[number]["question"]


@pytest.mark.parametrize("number", range(len(ROWS)))
def test_the_answer_to_another_prompt_or_none_does_not(number):
    kinds = [row["kind"] for row in ROWS]
    others = [GOOD[other] for other in range(len(ROWS)) if kinds[other] != kinds[number]]
    assert sum(verdict(number, other) for other in others) <= len(others) // 2
    assert not verdict(number, None)
    assert not verdict(number, "")


@pytest.mark.parametrize(
    ("number", "answer"),
    [
        (0, "one\ntwo\nthree"),
        (6, "A dog is not a cat."),
        (12, "bear\nant\ncow\ndog\nelk"),
        (13, "1. fold hats"),
        (24, '{"name": "Ina", "age": "41"}'),
        (24, "{" * 5000),
        (27, "14.02.2031"),
        (29, "#0000ff"),
        (30, "11 + 11"),
        (30, "10 + 10 + 1 + 1"),
        (30, "__import__('os').system('true')"),
        (30, "22"),
        (31, "2 * 4 * 6 * 8"),
        (32, "Ann\nDia\nBen\nCem"),
        (34, "2, 30, 1"),
        (35, "10, 10, 10, 10, 10"),
    ],
)
def test_an_answer_that_misses_a_condition_does_not(number, answer):
    assert not verdict(number, answer)


def test_the_harness_reads_it_as_a_task_of_one_s_own():
    task = open_task(str(PATH), "en")
    problems = task.load()
    assert len(problems) == len(ROWS)
    assert task.answer_kind == "text"
    assert task.score(GOOD[0], problems[0]) == 1.0
    assert task.score("no poem", problems[0]) == 0.0
