"""Colloquial translation: what goes in, what comes out, and what a person is told."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import random
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from marco.config import options
from marco.engines.scripted import Fail, ScriptedEngine
from marco.errors import InvalidOption, InvalidText, UserMistake
from marco.evaluation import plan
from marco.evaluation.tasks import open_task
from marco.events import AnswerChosen, RolloutFinished, SearchEnded, SearchStarted
from marco.solver import Solver
from marco.translation import (
    LANGUAGES,
    Glossary,
    back_translation,
    by_part,
    detect,
    in_register,
    language,
    lines_of,
    reading,
    row_of,
    task_of,
    to_csv,
    translate,
    translate_stream,
    whole,
)
from marco.translation.output import clean, flaw, untranslated
from marco.translation.prompting import EXAMPLES, Reading, is_phrase, translation_messages, written
from marco.translation.reasoned import expressions, find_words
from marco.translation.segments import kept, lost, parts, restore

SHOE = "这个鞋拥有踩屎感，很舒服，推荐购买😀"
EN, ZH, JA = language("en"), language("zh"), language("ja")
POOP = Reading("踩屎感", "feeling of stepping on poop", "soft and springy underfoot", "so cushy")


def asked(prefix: str) -> str:
    """What the last user turn of a prompt says."""
    return prefix.rpartition("user: ")[2].partition("\nassistant: ")[0]


def cushy(prefix: str, seed: int) -> str:
    """A thoughtful translator of few words; goes on where it stands."""
    said = prefix.rpartition("assistant: ")[2]
    words = random.Random(seed).choice(["so cushy", "so cushy", "so comfy"])
    whole = written("a happy review; casual", [POOP], f"These shoes are {words}, I recommend them 😀")
    return whole[len(said) :] if whole.startswith(said) else whole


def engine(script=cushy, **given) -> ScriptedEngine:
    return ScriptedEngine(script, **given)


def said(text: str) -> ScriptedEngine:
    return ScriptedEngine(lambda prefix, seed: text)


# -- languages ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("English", "en"), ("english", "en"), ("EN", "en"), ("eng", "en"), ("en-US", "en"), ("zh", "zh"),
        ("zh-CN", "zh"), ("zh_Hans", "zh"), ("Chinese", "zh"), ("中文", "zh"), ("zh-TW", "zh-Hant"),
        ("繁體中文", "zh-Hant"), (" ja ", "ja"), ("日本語", "ja"), ("Español", "es"), ("हिन्दी", "hi"), ("pt-BR", "pt"),
    ],
)  # fmt: skip
def test_a_language_goes_by_name_own_name_or_code(name, code):
    assert language(name).code == code


@pytest.mark.parametrize("name", ["", "Klingon", "e", "!!"])
def test_an_unknown_language_is_refused_and_the_known_ones_are_named(name):
    with pytest.raises(InvalidOption, match=r"English \(en\)"):
        language(name)


def test_names_and_codes_are_of_one_language_each():
    names = [
        name.casefold() for item in LANGUAGES for name in {item.code, item.name, item.own.casefold(), *item.aliases}
    ]
    assert len({item.code for item in LANGUAGES}) == len(LANGUAGES)
    assert all(language(name) for name in names)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (SHOE, "zh"), ("踩屎感", "zh"), ("这个 outfit 真的 so cute", "zh"), ("最高だね！", "ja"), ("推しが尊い", "ja"),
        ("진짜 대박이다", "ko"), ("This shoe is so comfy", "en"), ("break a leg", "en"), ("estar en las nubes", "es"),
        ("Das ist mir völlig Wurst", "de"), ("लाजवाब खाना था", "hi"), ("Как дела?", "ru"), ("#早安[话题]#", "zh"),
        ("https://example.org/hello hola, ¿qué tal estás?", "es"),
    ],
)  # fmt: skip
def test_the_language_of_a_text_is_recognised(text, code):
    found = detect(text)
    assert found is not None
    assert found.code == code


@pytest.mark.parametrize("text", ["", "  ", "12:30", "😀😀", "!?"])
def test_a_text_without_letters_has_no_language(text):
    assert detect(text) is None


# -- what is refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "   \n", "\x00", "啊" * 20_001])
def test_empty_and_over_long_texts_are_refused_before_anything_is_searched(text):
    with pytest.raises(InvalidText, match="text is"):
        translate_stream(engine(), text, "en")


def test_a_text_without_words_is_refused():
    with pytest.raises(InvalidText, match="nothing to translate"):
        translate_stream(engine(), "12:30 😀", "en")


def test_a_text_that_is_in_the_target_language_already_is_refused():
    with pytest.raises(InvalidOption, match="another than that of the text"):
        translate_stream(engine(), "These shoes are really comfortable, I like them.", "English")
    with pytest.raises(InvalidOption, match="--from"):
        translate_stream(engine(), "hola", "es", source="es")


def test_a_doubtful_guess_refuses_nothing():
    read = translate(said("hallo"), "hello", "de")
    assert read.translation == "hallo"


def test_a_person_who_names_the_source_language_is_believed():
    read = translate(said("gift"), "Gift", "en", source="de", mode="quick")
    assert read.source_language == "de"


def test_unknown_modes_are_refused():
    with pytest.raises(InvalidOption, match="quick, careful, paper"):
        translate_stream(engine(), SHOE, "en", mode="poetic")


# -- a search -------------------------------------------------------------------------------------------------


def test_a_careful_translation_is_one_search_whose_header_says_what_it_is():
    events = list(translate_stream(engine(), SHOE, "English"))
    started = events[0]
    assert isinstance(started, SearchStarted)
    assert isinstance(events[-1], SearchEnded)
    assert started.kind == "translate"
    assert started.details["source_language"] == "zh"
    assert started.details["target_language"] == "en"
    assert started.details["mode"] == "careful"
    assert started.options["search"]["select"] == "consensus"


def test_the_candidate_that_is_closest_to_the_others_wins():
    read = translate(engine(), SHOE, "English")
    assert read.translation == "These shoes are so cushy, I recommend them 😀"
    assert [item.translation for item in read.alternatives] == ["These shoes are so comfy, I recommend them 😀"]
    assert 0.5 < read.agreement < 1
    assert read.warnings == ()
    assert read.complete


def test_the_expressions_are_linked_to_both_texts():
    read = translate(engine(), SHOE, "English")
    (item,) = read.expressions
    assert (item.source, item.literal, item.meaning) == ("踩屎感", POOP.literal, POOP.meaning)
    assert read.source[slice(*item.source_span)] == "踩屎感"
    assert read.translation[slice(*item.target_span)] == "so cushy"
    assert read.draft == "a happy review; casual"


def test_careful_also_translates_at_once_and_says_of_such_a_candidate_how_others_read_it(tmp_path):
    def translator(prefix: str, seed: int) -> str:
        if "<Thought>" not in prefix:
            return "These shoes are so cushy, I do recommend them 😀"
        return cushy(prefix, seed)

    chosen = options("marco", rollouts=6, select="consensus")
    events = list(translate_stream(engine(translator), SHOE, "en", options=chosen, runs=tmp_path))
    assert [item["name"] for item in events[0].details["openings"]] == ["Translated plainly", "Translated at once"]
    finished = [event for event in events if isinstance(event, RolloutFinished)]
    assert [event.node for event in finished[:6]] == ["o1", "o1", "o2", "o2", "o2", "root"]
    at_once = [
        dataclasses.replace(event, text=finished[0].text, answer=finished[0].answer)
        if isinstance(event, AnswerChosen)
        else event
        for event in events
    ]
    read = reading(at_once)
    assert read.translation == "These shoes are so cushy, I do recommend them 😀"
    (item,) = read.expressions
    assert (item.source, read.translation[slice(*item.target_span)]) == ("踩屎感", "so cushy")
    (run,) = tmp_path.iterdir()
    resumed = list(Solver(engine(translator)).resume(run, task_of=task_of))
    assert reading(resumed).translation == reading(events).translation


def test_a_phrase_is_translated_at_once_only_where_a_dictionary_explains_it():
    asked = said(written("a phrase", (), "wait for luck"))
    (explained, *_), (unexplained, *_) = (
        list(translate_stream(asked, text, "en")) for text in ("守株待兔", "羊吃白菜")
    )
    assert [item["name"] for item in explained.details["openings"]] == ["Translated at once"]
    assert "openings" not in unexplained.details
    (by_itself, *_) = translate_stream(asked, "守株待兔", "en", dictionary=False)
    assert "openings" not in by_itself.details


def test_quick_is_one_greedy_pass_without_a_thought():
    events = list(translate_stream(said("So cushy!"), SHOE, "en", mode="quick", options=options("marco", rollouts=9)))
    assert sum(isinstance(event, RolloutFinished) for event in events) == 1
    assert "<Thought>" not in "".join(message["content"] for message in events[0].messages)
    assert reading(events).translation == "So cushy! 😀"


def test_paper_asks_plainly_and_takes_the_highest_confidence():
    events = list(translate_stream(said("So cushy!"), SHOE, "en", mode="paper"))
    assert events[0].messages[-1]["content"] == f"Translate into English: {SHOE}"
    assert events[0].options["search"]["select"] == "best"


def test_marco_o1_gets_the_papers_prompt_as_its_own_template_expects_it():
    messages = translation_messages(SHOE, ZH, EN, mode="paper", model="AIDC-AI/Marco-o1")
    assert [message["role"] for message in messages] == ["user"]


def test_what_is_translated_can_be_resumed(tmp_path):
    first = list(
        translate_stream(engine(), SHOE, "en", options=options("marco", rollouts=4, select="consensus"), runs=tmp_path)
    )
    (run,) = tmp_path.iterdir()
    resumed = list(Solver(engine()).resume(run, rollouts=8, task_of=task_of))
    assert sum(isinstance(event, RolloutFinished) for event in resumed) == 8
    assert reading(first).translation == reading(resumed).translation == "These shoes are so cushy, I recommend them 😀"


def test_stop_ends_it_with_what_there_is():
    stop = threading.Event()
    seen = []
    for event in translate_stream(engine(), f"{SHOE}\n\n{SHOE}", "en", stop=stop):
        seen.append(event)
        if isinstance(event, RolloutFinished):
            stop.set()
    assert seen[-1].stopped_by == "user"
    read = reading(seen)
    assert read.translation.startswith("These shoes")
    assert not read.complete


def test_a_model_that_fails_is_an_error_in_the_stream_and_no_exception():
    events = list(translate_stream(ScriptedEngine(lambda prefix, seed: Fail("Broken.")), SHOE, "en"))
    assert events[-1].stopped_by == "error"
    assert reading(events).translation == ""


def test_reading_follows_a_search_that_is_under_way():
    seen = []
    shown = []
    for event in translate_stream(engine(), SHOE, "en"):
        seen.append(event)
        shown.append(reading(seen).translation)
    assert shown[0] == ""
    assert shown[-1].startswith("These shoes")


# -- long texts -----------------------------------------------------------------------------------------------


def echo(prefix: str, seed: int) -> str:
    """Gives each paragraph its number, in English."""
    text = asked(prefix).splitlines()[-1]
    return f"This is paragraph {text[1]} of the text.\nnote: none" if text[0] == "第" else text


def test_paragraphs_are_translated_one_by_one_and_keep_their_breaks():
    text = "第1段，很长的话。\n\n第2段，还有话。\n \n\n第3段，没话了。"
    events = list(translate_stream(said_each := ScriptedEngine(echo), text, "en"))
    del said_each
    assert len(by_part(events)) == 3
    read = reading(events)
    assert read.translation == (
        "This is paragraph 1 of the text.\n\nThis is paragraph 2 of the text.\n \n\nThis is paragraph 3 of the text."
    )
    assert read.source == text
    assert read.complete


def test_what_came_before_is_shown_as_context():
    events = list(translate_stream(ScriptedEngine(echo), "第1段，很长的话。\n\n第2段，还有话。", "en"))
    second = by_part(events)[1][0]
    asked_second = second.messages[-1]["content"]
    assert "第1段，很长的话。\n→ This is paragraph 1 of the text." in asked_second
    assert second.question == "第2段，还有话。"
    assert "第1段" not in by_part(events)[0][0].messages[-1]["content"].removesuffix("第1段，很长的话。")


def test_spans_count_from_the_start_of_the_whole_text():
    text = f"{SHOE}\n\n{SHOE}"
    read = translate(engine(), text, "en")
    assert [text[slice(*item.source_span)] for item in read.expressions] == ["踩屎感", "踩屎感"]
    assert [read.translation[slice(*item.target_span)] for item in read.expressions] == ["so cushy", "so cushy"]
    assert read.expressions[0].source_span != read.expressions[1].source_span


def test_counts_of_all_parts_are_summed():
    events = list(translate_stream(engine(), f"{SHOE}\n\n{SHOE}", "en", options=options("marco", rollouts=3)))
    solution = whole(events)
    assert solution.rollouts == 6
    assert solution.answer.count("\n\n") == 1
    made = [event for event in events if isinstance(event, RolloutFinished)]
    assert solution.tokens["generated"] == sum(len(event.token_ids) for event in made)
    assert solution.to_json()["target_language"] == "en"


@settings(deadline=None)
@given(st.text(alphabet="aä。.! \n\t你😀", max_size=200), st.integers(5, 60))
def test_parts_put_together_are_the_text(text, limit):
    taken = parts(text, limit)
    assert "".join(part.text + part.behind for part in taken) == text.strip()
    assert all(len(part.text) <= limit for part in taken)


# -- what survives --------------------------------------------------------------------------------------------


def test_emoji_links_names_and_hashtags_are_found():
    text = "看 https://a.example/x?y=1 @小明_1 #OOTD 👩‍👩‍👧 🇨🇳 👍🏽 ❤️ 1️⃣"
    assert kept(text) == (
        "https://a.example/x?y=1", "@小明_1", "#OOTD", "👩‍👩‍👧", "🇨🇳", "👍🏽", "❤️", "1️⃣",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("source", "translation", "restored"),
    [
        ("好吃😋", "Yummy", "Yummy 😋"),
        ("😋好吃", "Yummy", "😋 Yummy"),
        ("好吃😋😋", "Yummy 😋", "Yummy 😋 😋"),
        ("好吃", "Yummy 😋", "Yummy"),
        ("好吃❤️", "Yummy ❤", "Yummy ❤"),
        ("看这里 https://a.example/x", "Look here", "Look here https://a.example/x"),
        ("@小明 来吃", "Come and eat", "@小明 Come and eat"),
        ("好吃😋\n真的🥹", "Yummy\nReally", "Yummy 😋\nReally 🥹"),
        ("好吃😋\n真的🥹", "Yummy, really", "Yummy, really 😋 🥹"),
        ("nothing to keep", "rien", "rien"),
    ],
)
def test_what_was_dropped_is_put_back_and_what_was_invented_goes(source, translation, restored):
    assert restore(source, translation) == restored


@settings(deadline=None)
@given(st.text(alphabet="ab 好😋❤️🇨🇳👍🏽\n", max_size=40), st.text(alphabet="ab 好😋❤️🇨🇳\n", max_size=40))
def test_restoring_loses_nothing_and_is_done_once(source, translation):
    once = restore(source, translation)
    assert {item.replace("\ufe0f", "") for item in kept(source)} <= {item.replace("\ufe0f", "") for item in kept(once)}
    assert restore(source, once) == once


def test_lost_numbers_and_line_breaks_are_named():
    assert lost("2024年买了35件\n好", "I bought some in 2024, good") == ("35", "the line breaks")


def test_numbers_that_are_written_otherwise_elsewhere_are_not_missed():
    assert lost("3万人，1,500元，2个", "30,000 people, 1500 yuan, two of them") == ()


# -- the output -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "output",
    [
        "So comfy!",
        '"So comfy!"',
        "“So comfy!”",
        "Translation: So comfy!",
        "**Translation:** So comfy!",
        "English: So comfy!",
        "Here is the translation:\n\nSo comfy!",
        'Sure, here\'s the English translation:\n\n"So comfy!"',
        "The translation of the text into English is: So comfy!",
        "So comfy!\n\nNote: 踩屎感 is slang for a soft sole.",
        "So comfy! (Note: slang.)",
        "```\nSo comfy!\n```",
        "<Output>So comfy!</Output>",
        "So comfy!<|im_end|>",
        "So comfy!\n\nI hope that helps!",
        f"{POOP}\nSo comfy!",
    ],
)
def test_what_models_put_around_a_translation_is_taken_off(output):
    assert clean(output, "太舒服了！") == "So comfy!"


@pytest.mark.parametrize(
    ("output", "source"),
    [
        ("Answer: 42", "答案：42"),
        ('"I can\'t," she said.', "“我不行。”她说。"),
        ("Note: bring an umbrella", "注意：带伞"),
        ("First.\n\nSecond.", "一。\n\n二。"),
        ("First\nNote: second", "一\n注意：二"),
    ],
)
def test_what_belongs_to_the_text_stays(output, source):
    assert clean(output, source) == output


@settings(deadline=None)
@given(st.text(max_size=300), st.text(max_size=50))
def test_any_output_is_cleaned_and_read_without_an_error(output, source):
    translation = clean(output, source)
    flaw(translation, source, EN, None, Glossary())
    for item in expressions(output, source, translation):
        assert source[slice(*item.source_span)] == item.source


@pytest.mark.parametrize(
    ("source", "translation", "target", "is_left"),
    [
        ("踩屎感", "This has a 踩屎 feel", EN, True),
        ("踩屎感", "cushy", EN, False),
        ("@小明 好", "@小明 good", EN, False),
        ("I love this song so much", "I love this song so much", ZH, True),
        ("I love Adele", "我爱 Adele", ZH, False),
        ("I love this song so much", "I love this song so much", language("es"), True),
        ("Quiero un taxi", "taxi", EN, False),
        ("我爱东京", "東京が大好き", JA, False),
    ],
)
def test_what_was_left_untranslated_is_noticed(source, translation, target, is_left):
    assert untranslated(source, translation, target, detect(source)) is is_left


def test_a_partly_translated_candidate_does_not_win():
    outputs = ["This 踩屎 shoe is nice 😀"] * 3 + ["This cushy shoe is nice 😀"]
    made = iter(outputs * 10)
    read = translate(
        ScriptedEngine(lambda prefix, seed: next(made)),
        SHOE,
        "en",
        options=options("marco", rollouts=4, parallel=1, select="consensus"),
    )
    assert read.translation == "This cushy shoe is nice 😀"


def test_where_there_is_nothing_better_it_is_shown_with_a_warning():
    read = translate(said("This 踩屎 shoe is nice"), SHOE, "en")
    assert read.translation == "This Caishi shoe is nice 😀"
    assert any("left 踩屎 as it was" in warning for warning in read.warnings)


def test_the_papers_way_keeps_what_the_model_left_and_says_so():
    read = translate(said("This 踩屎 shoe is nice"), SHOE, "en", mode="paper")
    assert "踩屎" in read.translation and any("not translated: 踩屎" in warning for warning in read.warnings)


# -- the thought ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "“踩屎感” | word for word: stepping on poop | here: very soft | say: cushy",
        "踩屎感 | word for word: stepping on poop | here: very soft | say: cushy",
        "- **踩屎感** | Literal: stepping on poop | Meaning: very soft | Say: “cushy”",
        "1. 踩屎感 | stepping on poop | very soft | cushy",
    ],
)
def test_an_expression_is_read_however_its_line_is_written(line):
    (item,) = expressions(line, SHOE, "A cushy shoe")
    assert (item.source, item.literal, item.meaning, item.chosen) == (
        "踩屎感",
        "stepping on poop",
        "very soft",
        "cushy",
    )
    assert item.target_span == (2, 7)


@pytest.mark.parametrize(
    "said_again", ["word for word: senses: soft; cushy", "senses: soft; cushy", "word for word: 踩屎感"]
)
def test_what_is_only_said_again_is_not_taken_for_the_literal_sense(said_again):
    (item,) = expressions(f"“踩屎感” | {said_again} | here: very soft | say: cushy", SHOE, "A cushy shoe")
    assert (item.literal, item.meaning, item.chosen) == ("", "very soft", "cushy")


def test_a_loose_remark_is_read_too():
    (item,) = expressions("“踩屎感” means very soft underfoot.", SHOE, "Soft")
    assert item.meaning == "very soft underfoot"


def test_an_expression_that_is_not_in_the_text_is_left_out():
    assert expressions("“绝绝子” | word for word: a | here: b | say: c", SHOE, "c") == ()


def test_an_expression_said_twice_gets_both_places():
    line = "“好” | word for word: good | here: fine | say: fine"
    found = expressions(f"{line}\n{line}\n{line}", "好好", "fine")
    assert [item.source_span for item in found] == [(0, 1), (1, 2)]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("a blast", "a blast"),
        ("had a blast at", "had a blast"),
        ("BLAST!", "blast"),
        ("nothing like it", None),
        ("", None),
    ],
)
def test_chosen_words_are_found_in_the_translation(words, found):
    text = "I had a blast yesterday"
    span = find_words(words, text)
    assert (text[slice(*span)] if span else None) == found


def test_a_literal_rendering_that_slipped_through_is_pointed_out():
    slipped = written("a review", [POOP], "A shoe with a feeling of stepping on poop 😀")
    read = translate(said(slipped), SHOE, "en")
    assert any("踩屎感 may have been taken word for word" in warning for warning in read.warnings)


def test_candidates_that_disagree_are_pointed_out():
    made = iter(["An umbrella for Tuesday", "Quick brown fox", "Zebra jumping high", "Completely different words"] * 9)
    read = translate(ScriptedEngine(lambda prefix, seed: next(made)), SHOE, "en")
    assert any("disagree" in warning for warning in read.warnings)


# -- glossary -------------------------------------------------------------------------------------------------


def test_a_glossary_is_read_from_csv_and_tsv(tmp_path):
    for name, text in {
        "a.csv": 'source,target\n踩屎感,"cushy, soft"\n\n# aside\n绝绝子,unreal\n',
        "b.tsv": "踩屎感\tcushy, soft\n绝绝子\tunreal\n",
    }.items():
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        assert Glossary.load(path).pairs == (("踩屎感", "cushy, soft"), ("绝绝子", "unreal"))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"only one cell\n", "line 1"),
        (b"a,b\nc,\n", "line 2"),
        (b"", "at least one line"),
        (b"\xff\xfe\x00", "UTF-8"),
        (b'a,"b\n', "table"),
    ],
)
def test_a_glossary_that_is_none_is_refused_with_its_line(tmp_path, content, problem):
    path = tmp_path / "g.csv"
    path.write_bytes(content)
    with pytest.raises(InvalidOption, match=problem):
        Glossary.load(path)


def test_a_missing_glossary_is_named(tmp_path):
    with pytest.raises(InvalidOption, match=r"missing\.csv"):
        translate_stream(engine(), SHOE, "en", glossary=tmp_path / "missing.csv")


def test_terms_that_occur_are_asked_for_and_their_places_reported():
    glossary = {"踩屎感": "so comfy", "奶茶": "milk tea"}
    events = list(translate_stream(engine(), SHOE, "en", glossary=glossary))
    assert "踩屎感 = so comfy" in events[0].messages[-1]["content"]
    assert "milk tea" not in events[0].messages[-1]["content"]
    read = reading(events)
    assert "so comfy" in read.translation
    (hit,) = read.glossary
    assert read.source[slice(*hit.source_span)] == "踩屎感"
    assert read.translation[slice(*hit.target_span)] == "so comfy"


def test_a_term_that_was_not_used_is_warned_of():
    read = translate(engine(), SHOE, "en", glossary={"踩屎感": "cloud-like"})
    assert not read.glossary[0].honoured
    assert any("cloud-like" in warning for warning in read.warnings)


def test_of_overlapping_terms_the_longer_counts_and_words_are_whole():
    glossary = Glossary((("cat", "gato"), ("cat food", "pienso")))
    hits = glossary.report("Cat food for a cat, not for concatenation", "Pienso para un gato")
    assert [(hit.source, hit.honoured) for hit in hits] == [("cat food", True), ("cat", True)]


# -- beside the search ----------------------------------------------------------------------------------------


def test_a_register_is_another_way_to_say_it():
    read = translate(engine(), SHOE, "en")
    prompts = []

    def playful(prefix: str, seed: int) -> str:
        prompts.append(prefix)
        return "Cushy, cushy, cushy!"

    assert in_register(ScriptedEngine(playful), read, "playful") == "Cushy, cushy, cushy! 😀"
    assert "playful" in prompts[0]
    with pytest.raises(InvalidOption, match="plain, casual, playful"):
        in_register(engine(), read, "royal")


def test_a_back_translation_is_in_the_language_of_the_text():
    assert back_translation(said("这双鞋很软"), "These shoes are soft", "zh", source="en") == "这双鞋很软"


def test_a_batch_becomes_a_table_that_a_spreadsheet_can_open():
    lines = lines_of(f"{SHOE}\n\n  {SHOE} \n")
    table = to_csv(row_of(translate(engine(), line, "en")) for line in lines)
    rows = list(csv.DictReader(io.StringIO(table)))
    assert [row["source"] for row in rows] == [SHOE, SHOE]
    assert rows[0]["translation"] == "These shoes are so cushy, I recommend them 😀"
    assert rows[0]["expressions"] == "踩屎感: soft and springy underfoot"


def test_a_cell_is_never_a_formula():
    table = to_csv([{"source": "=1+1", "translation": "@cmd"}])
    assert next(iter(csv.DictReader(io.StringIO(table))))["source"] == "'=1+1"


# -- prompts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "example", EXAMPLES, ids=lambda example: f"{example.source_language}-{example.target_language}-{example.text[:8]}"
)
def test_every_example_is_read_as_it_was_written(example):
    found = expressions(example.reasoned, example.text, example.translation)
    assert sorted(item.source for item in found) == sorted(item.source for item in example.readings)
    assert restore(example.text, clean(example.translation, example.text)) == example.translation
    source, target = language(example.source_language), language(example.target_language)
    assert flaw(example.translation, example.text, target, source, Glossary()) is None
    assert lost(example.text, example.translation) == ()


@pytest.mark.parametrize("code", ["en", "zh", "ja", "es", "hi"])
def test_examples_are_in_the_target_language_those_from_the_source_first(code):
    messages = translation_messages("x", ZH if code == "en" else EN, language(code), mode="careful")
    assert len(messages) > 2
    assert messages[1]["content"] in [item.text for item in EXAMPLES if item.target_language == code]


def test_a_phrase_is_shown_phrases_and_a_post_is_shown_posts():
    def first_example(text: str) -> str:
        return str(translation_messages(text, ZH, EN, mode="careful")[1]["content"])

    assert is_phrase(first_example("守株待兔")) and is_phrase(first_example("八仙过海，各显神通"))
    assert not is_phrase(first_example("这双鞋太好穿了吧！"))


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("守株待兔", True),
        ("八仙过海，各显神通", True),
        ("break a leg", True),
        ("守株待兔！", False),
        ("笑死😂", False),
        ("守株待兔，真是个笑话", False),
        ("这双鞋子有踩屎感", False),
        ("…", False),
        ("", False),
    ],
)
def test_a_phrase_is_short_and_said_by_nobody(text, phrase):
    assert is_phrase(text) == phrase


# -- the command ----------------------------------------------------------------------------------------------


@pytest.fixture
def command(monkeypatch, tmp_path):
    """Runs `marco translate` on a scripted engine: (exit code, stdout, stderr)."""
    import marco.engines
    from marco import cli

    monkeypatch.setenv("MARCO_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(marco.engines, "open_engine", lambda config, progress=None: engine())

    def run(*arguments: str) -> tuple[int, str, str]:
        result = CliRunner().invoke(cli.app, ["translate", *arguments])
        if isinstance(result.exception, UserMistake):
            return 2, result.stdout, str(result.exception)
        return result.exit_code, result.stdout, result.stderr

    return run


def test_the_command_prints_the_translation_alone_on_stdout(command):
    code, out, err = command(SHOE, "--to", "English", "--rollouts", "4")
    assert (code, out) == (0, "These shoes are so cushy, I recommend them 😀\n")
    assert "踩屎感: soft and springy underfoot" in err


def test_with_json_one_object_has_the_fields_of_solve_and_the_languages(command):
    code, out, _ = command(SHOE, "--to", "en", "--json", "--rollouts", "3", "--seed", "5")
    found = json.loads(out)
    assert code == 0
    assert found["answer"] == "These shoes are so cushy, I recommend them 😀"
    assert (found["source_language"], found["target_language"]) == ("zh", "en")
    assert (found["rollouts"], found["seed"], found["select"]) == (3, 5, "consensus")
    assert found["expressions"][0]["source"] == "踩屎感"
    assert Path(found["run"]).is_file()


def test_mistakes_are_told_before_a_model_is_opened(command, monkeypatch):
    import marco.engines

    monkeypatch.setattr(marco.engines, "open_engine", lambda *_, **__: pytest.fail("a model was opened"))
    for arguments in (
        ["", "--to", "en"],
        [SHOE, "--to", "xx"],
        [SHOE, "--to", "zh"],
        [SHOE, "--to", "en", "--mode", "x"],
    ):
        code, out, err = command(*arguments)
        assert code == 2
        assert out == ""
        assert err


def test_lines_become_a_table(command):
    code, out, _ = command(f"{SHOE}\nThis one is in English already, you see.\n", "--to", "en", "--lines")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0
    assert rows[0]["translation"].startswith("These shoes")
    assert "another than that of the text" in rows[1]["warnings"]


# -- measuring ------------------------------------------------------------------------------------------------


@pytest.fixture
def rows(tmp_path):
    """Two items: one with a reference, one with human and literal renderings."""
    path = tmp_path / "rows.jsonl"
    items = [
        {"source": "太好吃了", "reference": "So tasty", "slang": "太"},
        {"source": "画大饼", "human": ["make empty promises", "promise the moon"], "literal": ["draw a big cake"]},
    ]
    path.write_text("\n".join(json.dumps(item, ensure_ascii=False) for item in items) + "\n\n", encoding="utf-8")
    return path


def test_an_answer_scores_by_the_rendering_that_it_is_nearest_to(rows):
    task = open_task("translation", "English", rows)
    first, second = task.load()
    assert task.lang == "en"
    assert task.score("So tasty", first) == pytest.approx(1)
    assert task.score("promise the moon", second) == pytest.approx(1)
    assert 0 < task.score("makes promises", second) < 1
    assert task.score(None, first) == 0


def test_the_summary_says_how_near_how_literal_how_finished_and_how_repeatable(rows):
    task = open_task("translation", "en", rows)
    first, second = task.load()
    found = task.measures([(first, ["So tasty", "So tasty"]), (second, ["draw a big 饼", "make empty promises"])])
    assert 50 < found["chrf"] < 100
    assert found["chrf_interval"][0] <= found["chrf"] <= found["chrf_interval"][1]
    assert found["nearer_to_human"] == 0.5
    assert found["untranslated"] == 0.25
    assert 50 < found["repeatability"] < 100


def test_nothing_said_counts_as_untranslated(rows):
    task = open_task("translation", "en", rows)
    found = task.measures([(problem, [None]) for problem in task.load()])
    assert (found["chrf"], found["untranslated"], found["nearer_to_human"], found["repeatability"]) == (0, 1, 0, None)


@pytest.mark.parametrize(
    ("line", "problem"),
    [("{", "no JSON"), ('{"source": "a"}', "neither"), ('{"reference": "a"}', "source"),
     ('{"source": "", "reference": "b"}', "empty"), ('{"source": "a", "human": "b"}', "human must be a list")],
)  # fmt: skip
def test_a_damaged_row_is_refused_with_its_line(tmp_path, line, problem):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"source": "a", "reference": "b"}\n' + line, encoding="utf-8")
    with pytest.raises(UserMistake, match=rf"line 2: .*{problem}"):
        open_task("translation", "en", path).load()


@pytest.mark.parametrize("strategy", ["direct", "direct-consensus", "quick", "careful", "paper"])
def test_every_strategy_translates_as_one_search(rows, strategy):
    task = open_task("translation", "en", rows)
    settings = plan.Settings(budget=300)
    (combination,), (generation,) = plan.expand(task, settings, strategies=[strategy])
    problem = task.load()[0]
    events = list(
        task.stream(
            said("So tasty"), generation.with_seed(3), problem, strategy=generation.strategy, stop=threading.Event()
        )
    )
    made = [event for event in events if isinstance(event, RolloutFinished)]
    assert {event.answer for event in made} == {"So tasty"}
    assert (len(made) == 1) is (strategy in ("direct", "quick"))
    expected = {"direct-consensus": "consensus", "careful": "consensus", "paper": "best"}.get(strategy)
    assert combination.select == expected
