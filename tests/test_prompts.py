"""What a model is told beside the question."""

from __future__ import annotations

import pytest

from marco.prompts import solve_messages


def test_the_format_is_one_sentence_behind_the_question():
    (asked,) = solve_messages("How many?", model="any")
    assert asked["role"] == "user"
    question, sentence = asked["content"].split("\n\n")
    assert question == "How many?"
    assert sentence.count(".") == 1
    assert "<Thought>" in sentence
    assert "<Output>" in sentence


@pytest.mark.parametrize("model", ["AIDC-AI/Marco-o1", "marco-o1-q4.gguf"])
def test_marco_o1_knows_the_format_and_gets_the_question_alone(model):
    assert solve_messages("How many?", model=model) == ({"role": "user", "content": "How many?"},)


@pytest.mark.parametrize("strategy", ["mcts", "direct"])
@pytest.mark.parametrize(
    ("question", "language", "said"),
    [
        ("How many?", None, ""),
        ("How many? 🧵 €5", None, ""),
        ("多少？", None, " in the language of the question"),
        ("¿Cuánto es?", None, " in the language of the question"),
        ("How many?", "French", " in French"),
    ],
)
def test_the_language_of_the_answer_is_spoken_of_where_it_does_not_go_without_saying(
    question, language, said, strategy
):
    content = solve_messages(question, language=language, strategy=strategy)[-1]["content"]
    assert (" in the language" in content or " in French" in content) == bool(said)
    assert said in content


def test_a_system_prompt_of_ones_own_takes_the_place_of_the_format():
    system, asked = solve_messages("How many?", system="Be brief.", language="French")
    assert system == {"role": "system", "content": "Be brief.\nWrite the output in French."}
    assert asked["content"] == "How many?"


def test_earlier_turns_stand_between():
    turns = ({"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day."})
    messages = solve_messages("How many?", history=turns)
    assert messages[:2] == turns
    assert messages[2]["content"].startswith("How many?")
