"""What dictionaries say of the expressions in a text, and what becomes of it."""

from __future__ import annotations

import pytest

from marco.engines.scripted import ScriptedEngine
from marco.events import SearchStarted
from marco.runs import read_run
from marco.translation import reading, translate_stream
from marco.translation.dictionary import MAX_ENTRIES, entries_in, familiar_to, spelled_out
from marco.translation.dictionary.entry import listed
from marco.translation.languages import language
from marco.translation.prompting import EXAMPLES, Reading, is_phrase, written


def found(text: str, code: str | None = "zh") -> list[str]:
    return [entry.source for entry in entries_in(text, code)]


def test_an_idiom_is_found_with_what_it_says_word_for_word_and_what_it_means():
    (entry,) = entries_in("他真是雪中送炭", "zh")
    assert (entry.source, entry.span, entry.dictionary) == ("雪中送炭", (3, 7), "Marco")
    assert "charcoal" in entry.literal and "charcoal" not in entry.meaning
    assert "need" in entry.meaning


def test_senses_come_without_the_dictionarys_marks_and_abbreviations():
    (entry,) = entries_in("穿小鞋", "zh")
    assert "somebody" in entry.meaning and entry.meaning.startswith("make ")
    for mark in ("(idiom)", "fig.", "lit.", " sb", "sth", "[", "|"):
        assert mark not in entry.meaning + entry.literal


def test_an_entry_that_sends_elsewhere_is_followed():
    (entry,) = entries_in("势不可挡", "zh")
    assert "resist" in entry.meaning


@pytest.mark.parametrize("text", ["画蛇添足", "畫蛇添足"])
def test_simplified_and_traditional_texts_are_looked_up_alike(text):
    (entry,) = entries_in(text, "zh-Hant")
    assert entry.source == text and "superfluous" in entry.meaning


def test_slang_that_dictionaries_lack_is_known():
    (entry,) = entries_in("这个鞋拥有踩屎感", "zh")
    assert (entry.source, entry.dictionary) == ("踩屎感", "Marco")
    assert "poop" in entry.literal and "soft" in entry.meaning


def test_ordinary_words_are_not_explained():
    assert not found("我今天去商店买了一本书。")


def test_a_word_that_the_model_does_not_seem_to_know_is_explained_and_is_no_expression():
    (word,) = entries_in("一只鱿鱼", "zh", lambda word: word != "鱿鱼")
    assert (word.source, word.meaning, word.expression) == ("鱿鱼", "squid", False)


def test_a_word_is_familiar_where_the_vocabulary_has_more_of_it_than_its_characters():
    tokens = {"我们": (1,), "朋友圈": (2, 3), "铜锣烧": (4, 5, 6)}
    familiar = familiar_to(tokens.__getitem__)
    assert familiar("朋友圈") and not familiar("铜锣烧")


def test_to_a_vocabulary_without_words_every_word_is_familiar():
    assert familiar_to(lambda text: text.encode())("铜锣烧")


def test_what_is_a_piece_of_another_word_is_not_that_expression():
    assert found("我被种草了") == ["被种草"]
    assert not found("院子里种草莓")  # to grow strawberries
    assert found("yyds!") == ["yyds"]
    assert not found("byydsx")


@pytest.mark.parametrize(
    ("text", "meaning"),
    [("太太太太好看了", "so, so, so"), ("跳跳跳", "跳, drawn out for emphasis"), ("哈哈哈哈", "hahaha")],
)
def test_a_character_that_is_drawn_out_is_no_other_word(text, meaning):
    (entry,) = entries_in(text, "zh")
    assert entry.meaning == meaning


def test_an_expression_is_told_once_and_of_many_the_first():
    assert found("雪中送炭，雪中送炭") == ["雪中送炭"]
    many = "雪中送炭。守株待兔。画蛇添足。打草惊蛇。对牛弹琴。井底之蛙。亡羊补牢。"
    assert len(found(many)) == MAX_ENTRIES
    assert found(many)[0] == "雪中送炭"


@pytest.mark.parametrize("code", ["ja", "en", None])
def test_texts_in_other_languages_are_not_looked_up(code):
    assert not found("雪中送炭", code)


@pytest.mark.parametrize(
    ("text", "expressions"),
    [
        ("I'm all ears — spill the tea!", ["all ears", "spill the tea"]),
        ("She SPILLED the tea, he ghosted me.", ["SPILLED the tea", "ghosted me"]),
        ("You’re pulling my leg", ["pulling my leg"]),
        ("You pulled Kevin's leg", ["pulled Kevin's leg"]),
        ("He spills the teapot", []),
    ],
)
def test_english_expressions_are_found_however_they_are_inflected_and_whoever_they_are_about(text, expressions):
    assert found(text, "en") == expressions


@pytest.mark.parametrize(
    ("name", "columns", "shortest", "least"),
    [("slang_zh.tsv", 3, 2, 3_000), ("idioms_zh.tsv", 3, 3, 10_000), ("slang_en.tsv", 2, 2, 2_000)],
)
def test_our_own_lists_are_well_formed_and_say_nothing_twice(name, columns, shortest, least):
    lines = list(listed(name))
    assert len(lines) > least
    for cells in lines:
        assert len(cells) == columns and all(cell == cell.strip() for cell in cells), cells
        assert cells[0] and cells[-1], cells
        assert len(cells[0]) >= shortest, f"{cells[0]} would be found in too many words"
        assert all(sense.strip() and not sense.startswith(("to be a", "to do ")) for sense in cells[-1].split("; "))
    terms = [cells[0] for cells in lines]
    assert len(set(terms)) == len(terms)


@pytest.mark.parametrize(
    ("left", "target", "spelled"),
    [
        ("my 铜锣烧!", "en", "my Tongluoshao!"),
        ("prevent擦伤 during", "en", "prevent abrade during"),
        ("prevent擦伤 during", "es", "prevent Cashang during"),
        ("nothing left", "en", "nothing left"),
        ("使用", "ja", "使用"),
    ],
)
def test_what_was_left_in_characters_is_put_into_words_that_can_be_read(left, target, spelled):
    assert spelled_out(left, language("zh"), language(target)) == spelled


@pytest.mark.parametrize("example", [item for item in EXAMPLES if is_phrase(item.text)], ids=lambda item: item.text)
def test_an_example_that_is_a_phrase_says_it_by_the_first_sense_that_it_is_told(example):
    (entry,) = entries_in(example.text, example.source_language)
    assert example.translation == entry.senses[0] and example.readings[0].literal == entry.literal


# -- in a translation --------------------------------------------------------------------------------------------------

HELP = written(
    "a word of thanks",
    (Reading("雪中送炭", "", "help when it is needed", "came through for me"),),
    "You came through for me.",
)


def translated(say: str, text: str, **how):
    return list(translate_stream(ScriptedEngine(lambda prefix, seed: say), text, "en", **how))


@pytest.mark.parametrize(("mode", "told"), [("quick", True), ("careful", True), ("paper", False)])
def test_the_model_is_told_what_the_dictionary_says_in_the_modes_that_are_ours(mode, told):
    started = translated(HELP, "你这是雪中送炭啊", mode=mode)[0]
    assert isinstance(started, SearchStarted)
    assert ("need" in started.messages[-1]["content"]) == told
    assert [item["source"] for item in started.details["dictionary"] or ()] == (["雪中送炭"] if told else [])


def test_the_dictionary_can_be_left_out():
    started = translated(HELP, "你这是雪中送炭啊", dictionary=False)[0]
    assert isinstance(started, SearchStarted)
    assert "need" not in str(started.messages) and not started.details["dictionary"]


def test_an_unfamiliar_word_is_told_and_not_listed_among_the_expressions():
    class Scarce(ScriptedEngine):
        """A model whose vocabulary has 我们 in one piece and nothing else of Chinese."""

        @property
        def tokenizer(self):
            return Words(super().tokenizer)

    class Words:
        def __init__(self, inner):
            self._inner = inner

        def __getattr__(self, name):
            return getattr(self._inner, name)

        def encode(self, text):
            return (1,) if text == "我们" else self._inner.encode(text)

    events = list(translate_stream(Scarce(lambda prefix, seed: HELP), "我养了一只鱿鱼", "en"))
    started = events[0]
    assert isinstance(started, SearchStarted)
    assert "(Words: 鱿鱼 = squid)" in started.messages[-1]["content"]
    assert not reading(events).expressions


def test_ones_own_glossary_goes_before_the_dictionary():
    started = translated(HELP, "你这是雪中送炭啊", glossary={"雪中送炭": "a godsend"})[0]
    assert isinstance(started, SearchStarted)
    assert "godsend" in started.messages[-1]["content"]
    assert "need" not in started.messages[-1]["content"]


def test_an_expression_that_the_model_found_keeps_its_reading_and_gets_its_literal_sense():
    (item,) = reading(translated(HELP, "你这是雪中送炭啊")).expressions
    assert (item.meaning, item.chosen, item.dictionary) == ("help when it is needed", "came through for me", "")
    assert "charcoal" in item.literal


def test_an_expression_that_the_model_passed_over_is_shown_from_the_dictionary():
    say = written("a word of thanks", (), "You provide timely help.")
    read = reading(translated(say, "你这是雪中送炭啊"))
    (item,) = read.expressions
    assert (item.source, item.dictionary) == ("雪中送炭", "Marco")
    assert item.chosen and item.chosen == read.translation[slice(*item.target_span)]
    assert item.source_span == (3, 7)
    assert not read.warnings


def test_a_translation_that_says_an_idiom_word_for_word_is_warned_of():
    say = written("a word of thanks", (), "You send charcoal in snowy weather.")
    (warning,) = reading(translated(say, "你这是雪中送炭啊")).warnings
    assert "雪中送炭" in warning and "word for word" in warning


def test_what_a_model_takes_for_a_literal_sense_is_doubted_only_where_no_dictionary_was_asked():
    reading_of_it = Reading("推荐购买", "recommend buying", "worth getting", "worth getting")
    say = written("a compliment", (reading_of_it,), "I recommend buying it.")
    assert not reading(translated(say, "这鞋推荐购买")).warnings
    (warning,) = reading(translated(say, "这鞋推荐购买", dictionary=False)).warnings
    assert "推荐购买" in warning


@pytest.mark.parametrize("slip", ["You send charcoal in snowy weather.", "send charcoal in the snow"])
def test_what_says_an_idiom_word_for_word_does_not_win_against_what_it_means(slip):
    text = "你这是雪中送炭啊" if slip.endswith(".") else "雪中送炭"

    def translator(prefix: str, seed: int) -> str:
        return written("a word of thanks", (), slip if seed % 3 else "come to the rescue")

    read = reading(list(translate_stream(ScriptedEngine(translator), text, "en")))
    assert read.translation == "come to the rescue" and not any("word for word" in w for w in read.warnings)


def test_where_every_candidate_left_characters_they_are_put_in_from_the_dictionary_and_that_is_told():
    read = reading(translated(written("a word", (), "Doraemon's 红豆馅 is yummy!"), "哆啦A梦的红豆馅真好吃"))
    assert read.translation == "Doraemon's azuki bean stuffing is yummy!"
    assert any("红豆馅" in warning for warning in read.warnings)


def test_a_list_of_senses_does_not_win_against_words_to_say():
    def translator(prefix: str, seed: int) -> str:
        said = "wait idly for opportunities; trust to chance" if seed % 3 else "wait for luck"
        return written("a set phrase", (), said)

    events = list(translate_stream(ScriptedEngine(translator), "守株待兔", "en"))
    assert reading(events).translation == "wait for luck"


def test_a_recorded_translation_tells_what_the_dictionary_said(tmp_path):
    events = translated(written("thanks", (), "Thank you so much."), "你这是雪中送炭啊", runs=tmp_path)
    (path,) = tmp_path.iterdir()
    recorded = read_run(path)
    assert reading(recorded.events).expressions == reading(events).expressions != ()
