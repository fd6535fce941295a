"""Training data: what is read, what each rule drops and lets pass, and that no row vanishes."""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marco.errors import InvalidOption, UserMistake
from marco.training import data
from marco.training.rules import Dropped, Rules, sift, well_formed
from marco.training.sources import Row, Source, Unreadable, read, row_of, source_of

THOUGHT = "First I add two bolts and one bolt, which makes three bolts in total, and I check it again."
LENIENT = Rules(format="off", near_duplicates=None, agreement=())


def reply(thought: str = THOUGHT, output: str = "3") -> str:
    return f"<Thought>\n{thought}\n</Thought>\n<Output>\n{output}\n</Output>"


def row(instruction: str = "How many bolts are 2 and 1?", response: str | None = None, **given: Any) -> Row:
    messages = ({"role": "user", "content": instruction}, {"role": "assistant", "content": response or reply()})
    return Row(messages, **{"source": "s", "place": "f, line 1", **given})


def verdicts(*rows: Row | Unreadable, rules: Rules | None = None) -> list[str]:
    """The rule that drops each row, or "kept", in the order of their places."""
    rows = tuple(dataclasses.replace(item, place=f"line {number}") for number, item in enumerate(rows, start=1))
    found = {item.place: item.rule if isinstance(item, Dropped) else "kept" for item in sift(rows, rules or Rules())}
    return [found[item.place] for item in rows]


# -- rules, each with what passes and what doesn't ---------------------------------------------------------------------

OTHER = "A train goes 60 miles an hour for 2 hours. How many miles does it go?"
LOOP = "I think it is three. " * 60
ENGLISH = "The answer that I have found after all this thinking is three bolts of fiber in total, as was asked for."
GERMAN = "Die Antwort, die ich nach all dem Nachdenken gefunden habe, lautet drei Ballen Stoff insgesamt, wie gefragt."
CHINESE = "一共有多少只猫需要做绝育？她今天总共需要对二十一只动物进行绝育。"

CASES = {
    # name: (rule, rules, what passes, what is dropped)
    "strict form": ("format", Rules(), reply(), "It is 3."),
    "tags closed": ("format", Rules(), reply(), reply().removesuffix("</Output>")),
    "tags once": ("format", Rules(), reply(), reply() + reply()),
    "nothing outside": ("format", Rules(), reply() + "\n", "Sure! " + reply()),
    "thought not empty": ("format", Rules(), reply(), reply(thought=" ")),
    "output not empty": ("format", Rules(), reply(), reply(output="\n")),
    "plain may pass, half-tagged not": ("format", Rules(plain=True), "It is 3.", "It is 3.</Output>"),
    "whole characters": ("damaged", Rules(), reply(), reply(output="3 \ufffd")),
    "no NUL": ("damaged", Rules(), reply(), reply(output="3 \x00")),
    "no half surrogate": ("damaged", Rules(), reply(output="3 \U0001f642"), reply(output="3 \ud83d")),
    "long enough": ("length", Rules(min_thought=30), reply(), reply(thought="2 + 1 = 3")),
    "short enough": ("length", Rules(max_chars=400), reply(), reply(thought=THOUGHT * 6)),
    "no loop in the thought": ("repetition", Rules(), reply(), reply(thought=LOOP)),
    "no loop in the output": ("repetition", Rules(), reply(), reply(output=LOOP)),
    "answer was thought of": ("agreement", Rules(), reply(), reply(output="It is 7.")),
    "output in the language of the question": ("language", Rules(), reply(output=ENGLISH), reply(output=GERMAN)),
    "output in the language that is wanted": (
        "language",
        Rules(output_language="de"),
        reply(output=GERMAN),
        reply(output=ENGLISH),
    ),
    "thought in the language of the question": (
        "language",
        Rules(thought_language="same"),
        reply(),
        reply(thought=CHINESE + " 3"),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_rule_lets_through_what_is_fit_and_drops_what_is_not(case):
    rule, rules, fit, unfit = CASES[case]
    assert verdicts(row(response=fit), rules=rules) == ["kept"]
    assert verdicts(row(response=unfit), rules=rules) == [rule]


@pytest.mark.parametrize("case", CASES)
def test_a_rule_that_is_off_drops_nothing(case):
    unfit = CASES[case][3]
    off = Rules(
        format="off", damaged=False, min_thought=0, repetition=False, output_language="any", near_duplicates=None,
        duplicates=False, agreement=(),
    )  # fmt: skip
    assert verdicts(row(response=unfit), rules=off) == ["kept"]


def test_only_languages_that_are_asked_for_pass():
    rules = Rules(languages=("zh",), output_language="any")
    assert verdicts(row(CHINESE), row("Please tell me how many bolts of fiber there are in all."), rules=rules) == [
        "kept",
        "language",
    ]


@pytest.mark.parametrize("output", ["3", "Lucca has 45.", "```python\nprint('many words in a program')\n```", "$x=3$"])
def test_what_is_too_short_to_tell_its_language_is_let_through(output):
    assert verdicts(row(CHINESE, reply(output=output)), rules=Rules(agreement=())) == ["kept"]


def test_code_and_formulas_have_no_language():
    code = "```python\n" + "for the_number in all_of_the_numbers: print(the_number)\n" * 3 + "```"
    assert verdicts(row(CHINESE, reply(output=code)), rules=Rules(agreement=(), repetition=False)) == ["kept"]


def test_tokens_count_where_there_is_a_tokenizer():
    rules = Rules(max_tokens=10)
    assert [type(item) for item in sift([row()], rules, len)] == [Dropped]
    assert [type(item) for item in sift([row()], rules, lambda text: 10)] == [Row]
    assert [type(item) for item in sift([row()], rules, None)] == [Row]


def test_the_same_row_again_is_dropped_whatever_its_case_and_blanks():
    again = row("HOW many  bolts are 2 and 1?")
    assert verdicts(row(), again) == ["kept", "duplicate"]
    assert verdicts(row(), again, rules=Rules(duplicates=False, near_duplicates=None)) == ["kept", "kept"]


def test_another_response_to_the_same_question_is_no_duplicate():
    other = row(response=reply(thought="Half of two is one; together with the two that there are, it must be 3."))
    assert verdicts(row(), other) == ["kept", "kept"]


LONG = " ".join(f"Step {number} adds the {word} and goes on." for number, word in enumerate("abcdefghijklmnopq"))


def test_nearly_the_same_row_again_is_dropped():
    near = row(response=reply(thought=THOUGHT + " " + LONG + " Done!"))
    first = row(response=reply(thought=THOUGHT + " " + LONG))
    assert verdicts(first, near) == ["kept", "near-duplicate"]
    assert verdicts(first, near, rules=Rules(near_duplicates=None)) == ["kept", "kept"]


def test_the_same_question_in_other_numbers_is_another_question():
    text = reply(thought=THOUGHT + " " + LONG)
    assert verdicts(row("How many bolts are 2 and 1?", text), row("How many bolts are 1 and 2?", text)) == [
        "kept",
        "kept",
    ]


def test_an_answer_must_be_the_one_that_is_known():
    right, wrong = row(reference="3"), row(OTHER, reference="120")
    assert verdicts(right, wrong) == ["kept", "agreement"]
    assert verdicts(right, wrong, rules=Rules(agreement=())) == ["kept", "kept"]


def test_rows_with_one_question_are_outvoted_by_the_others():
    said = [
        reply(thought=f"{words} 3 and 4 and 5", output=answer)
        for words, answer in (
            ("Counting on my fingers gives", "3"),
            ("Adding in the head gives something like", "3"),
            ("A guess from far away could be", "4"),
        )
    ]
    assert verdicts(*(row(response=text) for text in said)) == ["kept", "kept", "agreement"]


def test_without_a_majority_all_of_a_question_is_dropped():
    said = [
        reply(thought=f"{words} 3 and 4", output=answer)
        for words, answer in (("Here I count", "3"), ("What I see is rather", "4"))
    ]
    assert verdicts(*(row(response=text) for text in said)) == ["agreement", "agreement"]


def test_a_rounded_answer_was_thought_of():
    text = reply(thought="The quotient of both numbers is 3.3333333 as it goes on and on.", output="3.33")
    assert verdicts(row(response=text)) == ["kept"]


@pytest.mark.parametrize(
    "loose",
    [
        "<thought>" + THOUGHT + "</thought><output>3</output>",
        reply().removesuffix("</Output>"),
        "Sure!\n" + reply(),
        "<Thought>" + THOUGHT + "</Thought>\n3",
    ],
)
def test_what_can_be_read_is_brought_into_the_strict_form_on_request(loose):
    assert verdicts(row(response=loose)) == ["format"]
    [kept] = sift([row(response=loose)], Rules(format="repair"))
    assert isinstance(kept, Row) and well_formed(kept.response)
    assert kept.output == "3" and THOUGHT in kept.thought


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"format": "nice"}, "format is 'nice'"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"min_thought": -1}, "min_thought"),
        ({"near_duplicates": 0.2}, "near_duplicates"),
        ({"agreement": ("all",)}, "agreement"),
        ({"languages": ("klingon",)}, "language"),
    ],
)
def test_wrong_rules_are_refused(given, message):
    with pytest.raises(InvalidOption, match=message):
        Rules(**given)


# -- reading -----------------------------------------------------------------------------------------------------------


def written(path: Path, text: str | bytes) -> Source:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return source_of(str(path))


def test_the_released_form_is_read_with_the_line_of_each_row(tmp_path):
    rows = [{"instruction": f"Q{number}", "response": reply()} for number in range(3)]
    source = written(tmp_path / "d.json", json.dumps(rows, indent=2))
    found = list(read(source))
    assert [item.instruction for item in found] == ["Q0", "Q1", "Q2"]
    assert [item.place for item in found] == [f"{tmp_path}/d.json, line {line}" for line in (2, 6, 10)]
    assert found[0].thought == THOUGHT and found[0].output == "3"


def test_chat_lines_are_read_with_their_history(tmp_path):
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "2 + 1?"},
        {"role": "assistant", "content": reply()},
    ]
    shared = [{"from": "human", "value": "2 + 1?"}, {"from": "gpt", "value": reply()}]
    lines = [{"messages": turns, "reference": 3}, {"conversations": shared}]
    first, second = read(written(tmp_path / "d.jsonl", "\n".join(map(json.dumps, lines))))
    assert [turn["role"] for turn in first.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert (first.instruction, first.reference) == ("2 + 1?", "3")
    assert second.messages == first.messages[3:]
    assert second.place.endswith("line 2")


def test_parquet_is_read(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="Parquet needs what make setup-train installs")
    from pyarrow import parquet

    turns = [[{"role": "user", "content": "Q"}, {"role": "assistant", "content": reply()}], []]
    parquet.write_table(pyarrow.table({"messages": turns}), tmp_path / "d.parquet")
    good, bad = read(source_of(str(tmp_path / "d.parquet")))
    assert good.response == reply() and good.place.endswith("d.parquet, row 1")
    assert isinstance(bad, Unreadable) and bad.place.endswith("d.parquet, row 2")


def test_a_damaged_parquet_file_is_refused(tmp_path):
    pytest.importorskip("pyarrow", reason="Parquet needs what make setup-train installs")
    with pytest.raises(UserMistake, match="damaged"):
        list(read(written(tmp_path / "d.parquet", b"PAR1 and nothing else")))


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("text", "it is text, not an object"),
        (None, "it is null"),
        ({"a": 1}, "neither instruction and response nor messages"),
        ({"instruction": "Q", "response": 3}, "its response is a number"),
        ({"instruction": " ", "response": "A"}, "its instruction is empty"),
        ({"messages": "Q"}, "no list of turns"),
        ({"messages": ["Q"]}, "turn 1 of its messages is text"),
        ({"messages": [{"role": "tool", "content": "Q"}]}, "none of system"),
        ({"messages": [{"role": "user", "content": ""}]}, "turn 1 says nothing"),
        ({"messages": [{"role": "user", "content": "Q"}]}, "last turn is not the assistant's"),
        ({"messages": [{"role": "assistant", "content": "A"}]}, "no user's turn"),
    ],
)
def test_what_is_no_row_says_why(value, why):
    found = row_of(value, "s", "f, line 1")
    assert isinstance(found, Unreadable) and why in found.why


def test_bad_lines_among_good_ones_are_told_with_their_line(tmp_path):
    good = json.dumps({"instruction": "Q", "response": "A"}).encode()
    lines = [good, b"{broken", b"\xff\xfe", b"", b"[1]", good[:10]]
    found = list(read(written(tmp_path / "d.jsonl", b"\n".join(lines))))
    assert [(type(item).__name__, item.place.rpartition(" ")[2]) for item in found] == [
        ("Row", "1"),
        ("Unreadable", "2"),
        ("Unreadable", "3"),
        ("Unreadable", "5"),
        ("Unreadable", "6"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'[\n{"instruction": "Q", "response": "A"},\n{"instruction": oops}\n]', "line 3: the JSON list breaks off"),
        (b'[\n{"instruction": "Q", "response": "A"}\n{"instruction": "Q"}]', "line 3: a comma"),
        (b'[\n{"instruction": "\xff"}]', "line 2: this is not UTF-8"),
    ],
)
def test_a_list_that_breaks_off_is_refused_with_its_line(tmp_path, text, message):
    with pytest.raises(UserMistake, match=message):
        list(read(written(tmp_path / "d.json", text)))


def test_sources_have_names(tmp_path):
    (tmp_path / "d.json").write_text("[]")
    assert source_of(str(tmp_path / "d.json")).name == "d"
    assert source_of(f"cot={tmp_path}/d.json").name == "cot"
    hub = source_of("someone/some-set:test")
    assert hub.is_hub and hub.address == "someone/some-set:test"
    for missing in (str(tmp_path / "none.json"), "data/none.jsonl", str(tmp_path)):
        with pytest.raises(UserMistake, match="There is no data file"):
            source_of(missing)


def test_a_hub_data_set_is_read_row_by_row(monkeypatch):
    datasets = pytest.importorskip("datasets", reason="the hub needs what make setup-train installs")
    asked = []

    def load_dataset(name, split):
        asked.append((name, split))
        return [{"instruction": "Q", "output": "A"}, {"x": 1}]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.delenv("MARCO_OFFLINE", raising=False)
    good, bad = read(source_of("someone/some-set:test"))
    assert asked == [("someone/some-set", "test")]
    assert good.response == "A" and good.place == "someone/some-set:test, row 1"
    assert isinstance(bad, Unreadable)


def test_a_hub_data_set_is_not_looked_for_offline(monkeypatch):
    pytest.importorskip("datasets", reason="the hub needs what make setup-train installs")
    monkeypatch.setenv("MARCO_OFFLINE", "1")
    with pytest.raises(UserMistake, match="stay offline"):
        list(read(source_of("someone/some-set")))


# -- mixing and splitting ----------------------------------------------------------------------------------------------


def of_source(name: str, count: int) -> list[Row]:
    return [row(f"{name} {number}?", source=name, place=f"{name}, line {number}") for number in range(count)]


def test_a_mix_has_the_proportions_that_were_asked_for_and_says_no_row_twice():
    rows = [*of_source("a", 90), *of_source("b", 10), *of_source("c", 10)]
    kept, left_out = data.mix(rows, {"a": 4, "b": 1, "c": 0})
    assert {name: sum(item.source == name for item in kept) for name in "abc"} == {"a": 40, "b": 10, "c": 0}
    assert len(kept) + len(left_out) == len(rows)
    assert {item.rule for item in left_out} == {"mix"}
    assert len({item.place for item in kept}) == len(kept)


def test_the_seed_decides_who_is_left_out():
    rows = of_source("a", 50)
    first, _ = data.mix(rows, size=10, seed=1)
    again, _ = data.mix(rows, size=10, seed=1)
    other, _ = data.mix(rows, size=10, seed=2)
    assert first == again != other
    assert len(other) == 10


def test_the_paper_s_mix_is_a_preset():
    sources = [Source(name, f"{name}.json") for name in "abc"]
    named, weights = data.parse_mix("paper", sources)
    assert [source.name for source in named] == ["open-o1-cot", "marco-o1-cot", "instruction"]
    assert [source.address for source in named] == ["a.json", "b.json", "c.json"]
    assert list(weights.values()) == [45_125, 10_000, 5_141]
    with pytest.raises(InvalidOption, match="3 inputs"):
        data.parse_mix("paper", sources[:2])


@pytest.mark.parametrize("given", ["a", "a=", "a=x", "a=1,b=-1", "a=1,c=1", "a=0,b=0", "a=nan,b=1"])
def test_a_mix_that_makes_no_sense_is_refused(given):
    with pytest.raises(InvalidOption, match="mix"):
        data.parse_mix(given, [Source("a", "a.json"), Source("b", "b.json")])


def test_all_rows_of_a_question_are_on_one_side():
    rows = [row(f"Question {number % 10}?", place=f"line {number}") for number in range(40)]
    train, held = data.split(rows, 0.2, seed=3)
    assert len(train) + len(held) == 40
    assert len(held) == 8
    assert not {item.instruction for item in train} & {item.instruction for item in held}


@pytest.mark.parametrize(("count", "share", "held"), [(1, 0.5, 0), (2, 0.05, 1), (100, 0.05, 5), (9, 0, 0)])
def test_the_share_that_is_held_out(count, share, held):
    assert len(data.split(of_source("a", count), share)[1]) == held


# -- the whole ---------------------------------------------------------------------------------------------------------

TEXTS = st.one_of(
    st.sampled_from(
        [reply(), reply(output="7"), reply(thought=LOOP), "It is 3.", reply() + "x", reply(output="\ufffd")]
    ),
    st.text(max_size=30),
)
VALUES = st.one_of(
    st.fixed_dictionaries(
        {"instruction": st.sampled_from(["How many are 2 and 1?", OTHER, "Why?"]), "response": TEXTS}
    ),
    st.fixed_dictionaries({"instruction": st.text(max_size=9), "response": TEXTS, "reference": st.integers(0, 9)}),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["messages", "role", "content", "response", "instruction"]), inner, max_size=3
            )
        ),
        max_leaves=6,
    ),
)


@given(
    rows=st.lists(VALUES, max_size=12),
    share=st.sampled_from([0, 0.05, 0.5]),
    size=st.none() | st.integers(1, 8),
    form=st.sampled_from(["strict", "repair", "off"]),
)
@settings(max_examples=60, deadline=None)
def test_no_row_vanishes(tmp_path_factory, rows, share, size, form):
    folder = tmp_path_factory.mktemp("data")
    (folder / "d.json").write_text(json.dumps(rows))
    source = source_of(str(folder / "d.json"))
    try:
        prepared = data.prepare([source], Rules(format=form), validation=share, size=size)
    except UserMistake as mistake:
        assert "is left" in str(mistake) or "hold no rows" in str(mistake)
        return
    report = data.write(folder / "out", prepared, sources=[source], settings={})
    assert report["read"] == len(rows) == report["kept"] + report["dropped"]
    assert report["kept"] == report["train"] + report["validation"]
    assert sum(report["by_rule"].values()) == report["dropped"]
    read_back = [(folder / "out" / name).read_text().count("\n") for name in ("train.jsonl", "validation.jsonl")]
    assert read_back == [report["train"], report["validation"]]
    places = [json.loads(line)["place"] for path in (folder / "out").glob("*.jsonl") for line in path.open()]
    assert len(places) == len(rows)


@pytest.fixture
def train_data(marco_cli):
    """Call `marco train data ARGUMENTS`; returns (exit code, stdout, stderr)."""
    return partial(marco_cli, "train", "data")


@pytest.fixture
def files(tmp_path):
    rows = [{"instruction": f"How many are {number} and 1?", "response": reply(output="3")} for number in range(20)]
    rows += [{"instruction": "Bad?", "response": "no first tag</Output>"}, {"oops": 1}]
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=1))
    plain = [{"instruction": f"Say {number}.", "response": f"{number}"} for number in range(5)]
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, plain)))
    return tmp_path


def test_the_command_writes_rows_and_a_report(train_data, files):
    code, out, _ = train_data(files / "a.json", f"plain={files}/b.jsonl", "--plain", "--out", files / "out", "--json")
    report = json.loads(out)
    assert code == 0
    assert (report["read"], report["kept"], report["dropped"]) == (27, 25, 2)
    assert report["by_rule"]["format"] == report["by_rule"]["unreadable"] == 1
    assert [source["name"] for source in report["sources"]] == ["a", "plain"]
    assert len(report["sources"][0]["sha256"]) == 64
    text = (files / "out" / "report.md").read_text()
    assert f"{files}/a.json, line" in text
    assert "&lt;Thought> is missing" in text
    train, held = data.load(files / "out")
    assert (len(train), len(held)) == (report["train"], report["validation"])


def test_the_same_seed_gives_the_same_files(train_data, files):
    made = []
    for name, seed in (("x", 4), ("y", 4), ("z", 5)):
        train_data(files / "a.json", "--out", files / name, "--seed", seed, "--size", 10)
        made.append((files / name / "train.jsonl").read_text())
    assert made[0] == made[1] != made[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("none.json",), "There is no data file"),
        (("a.json", "--mix", "a=x"), "mix"),
        (("a.json", "--validation", "0.9"), "validation"),
        (("a.json", "--format", "nice"), "format"),
        (("a.json", "--max-tokens", "9"), "--model"),
        (("a.json", "a.json"), "Two inputs"),
        (("a.json", "--language", "klingon"), "language"),
        (("b.jsonl",), "None of 5 rows is left"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(train_data, files, arguments, message):
    arguments = [files / part if part.endswith((".json", ".jsonl")) else part for part in arguments]
    code, out, err = train_data(*arguments, "--out", files / "out")
    assert (code, out) == (2, "")
    assert message in err and err.count("\n") == 1


def test_what_data_says_is_no_markup_of_the_report():
    report = {
        "read": 1, "kept": 0, "dropped": 1, "train": 0, "validation": 0, "rewritten": 0,
        "by_rule": {"format": 1}, "settings": {}, "sources": [{"name": "a|b", "read": 1, "kept": 0, "format": 1}],
        "examples": {"format": [{"place": "p", "why": "w", "excerpt": "`<script>alert(1)</script>`"}]},
    }  # fmt: skip
    text = data.as_text(report)
    assert "<script>" not in text
    assert "a\\|b" in text
