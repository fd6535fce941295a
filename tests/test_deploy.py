"""The folder of a Space, what Docker gets, and the GPU that a Space is lent."""

from __future__ import annotations

import inspect
import json
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import yaml
from huggingface_hub import SpaceCard, SpaceCardData
from typer.testing import CliRunner

from marco import deploy, zerogpu
from marco.cli import app
from marco.config import options
from marco.engines.scripted import ScriptedEngine
from marco.errors import InvalidOption, ModelUnavailable, UserMistake
from marco.events import RolloutFinished, SearchEnded
from marco.solver import Solution

ALSO = {
    "emoji",
    "colorFrom",
    "colorTo",
    "pinned",
    "short_description",
    "header",
    "suggested_hardware",
    "preload_from_hub",
}
"""Fields of a Space's card that the hub documents and its library passes on unnamed."""
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    folder = tmp_path_factory.mktemp("space") / "space"
    deploy.write_space(folder)
    return folder


# Space.yaml, the one source


def test_every_field_of_the_space_is_one_that_the_hub_knows():
    named = set(inspect.signature(SpaceCardData.__init__).parameters) - {"self", "kwargs", "ignore_metadata_errors"}
    given = yaml.safe_load((deploy.ROOT / "Space.yaml").read_text())
    assert set(given) <= named | ALSO
    assert given["colorFrom"] in COLOURS
    assert given["colorTo"] in COLOURS
    assert len(given["short_description"]) <= 60
    assert given["sdk"] == "gradio"
    assert (deploy.ROOT / given["app_file"]).is_file()


def test_the_space_runs_the_gradio_that_the_tests_ran(space):
    card = SpaceCard.load(space / "README.md").data
    assert f"gradio=={card.sdk_version}" in (deploy.ROOT / "requirements.txt").read_text()
    assert "gradio==" not in (space / "requirements.txt").read_text()


def test_the_readme_says_what_space_yaml_says(space):
    card = SpaceCard.load(space / "README.md").data.to_dict()
    assert card == yaml.safe_load((deploy.ROOT / "Space.yaml").read_text())


def test_the_space_has_what_runs_and_nothing_else(space):
    names = {path.name for path in space.iterdir()}
    assert names == {"README.md", "requirements.txt", "app.py", "marco", "ui", "LICENSE", "Space.yaml"}
    text = (space / "requirements.txt").read_text()
    assert "torch==" in text
    assert not [line for line in text.splitlines() if line.startswith(("pytest", "ruff", "mypy", "playwright"))]
    assert not list(space.rglob("__pycache__"))


def test_the_written_app_starts_from_its_own_folder(space):
    done = subprocess.run([sys.executable, "app.py", "--help"], cwd=space, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert "--host" in done.stdout


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "title: [", "1: 2\n", "\x00"])
def test_a_space_yaml_that_says_nothing_sound_is_refused(tmp_path, text):
    (tmp_path / "Space.yaml").write_text(text)
    with pytest.raises(UserMistake):
        deploy.metadata(tmp_path)


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserMistake, match="something else"):
        deploy.write_space(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


# The command


def test_a_dry_run_writes_and_uploads_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("marco.deploy.upload_space", lambda *_, **__: pytest.fail("it uploaded"))
    result = CliRunner().invoke(
        app, ["deploy", "space", "me/marco", "--dry-run", "--folder", str(tmp_path / "s"), "--json"]
    )
    told = json.loads(result.stdout)
    assert (told["space"], told["uploaded"], told["address"]) == ("me/marco", False, None)
    assert (tmp_path / "s" / "README.md").is_file()


def test_uploading_makes_the_space_the_folder(tmp_path, monkeypatch):
    calls: list[tuple[str, dict[str, Any]]] = []

    class Made(str):
        repo_id = "me/marco"

    class Api:
        def create_repo(self, name: str, **given: Any) -> Made:
            calls.append(("create", {"name": name, **given}))
            return Made("https://hub/spaces/me/marco")

        def upload_folder(self, **given: Any) -> None:
            calls.append(("upload", given))

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.delenv("MARCO_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert deploy.upload_space("marco", tmp_path) == "https://hub/spaces/me/marco"
    (_, made), (_, sent) = calls
    assert (made["name"], made["repo_type"], made["space_sdk"]) == ("marco", "space", "gradio")
    assert (sent["repo_id"], sent["folder_path"], sent["delete_patterns"]) == ("me/marco", tmp_path, ["*"])


def test_offline_nothing_is_uploaded(tmp_path, monkeypatch):
    monkeypatch.setenv("MARCO_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: pytest.fail("it asked the hub"))
    with pytest.raises(ModelUnavailable, match="offline"):
        deploy.upload_space("marco", tmp_path)


@pytest.mark.parametrize("name", ["", "../x", "a/b/c", "a b", "-a", "a/", "a\x00", "x" * 300, "a..b", "a.git", "<b>"])
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(InvalidOption, match="name of a Space"):
        deploy.check_name(name)


# Docker


def test_the_image_installs_what_is_pinned_and_runs_as_nobody_special():
    lines = (deploy.ROOT / "Dockerfile").read_text().splitlines()
    assert any("-r requirements.txt -c constraints.txt" in line for line in lines)
    assert lines.index("USER marco") < next(place for place, line in enumerate(lines) if line.startswith("CMD"))
    for line in lines:
        if line.startswith("COPY"):
            for name in line.split()[1:-1]:
                assert (deploy.ROOT / name).exists(), name


def test_constraints_hold_every_requirement_at_its_pin():
    def pins(name: str) -> dict[str, str]:
        lines = (deploy.ROOT / name).read_text().splitlines()
        found = (line.split(";")[0].strip().partition("==") for line in lines if line and not line.startswith("#"))
        return {package.lower().replace("_", "-"): version for package, _, version in found}

    constraints = pins("constraints.txt")
    for package, version in pins("requirements.txt").items():
        assert constraints[package] == version, package


# A GPU that is lent


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ({"max_seconds": 30}, 50),
        ({"max_seconds": 3000, "rollouts": 500}, 120),
        ({"tokens": 2000}, 30),
        ({"rollouts": 1, "max_tokens": 200}, 21),
        ({"rollouts": 1000}, 120),
    ],
)
def test_the_gpu_is_asked_for_as_long_as_the_budget_lasts(given, seconds):
    assert zerogpu.seconds_for(options("marco", **given).to_dict()) == seconds


def test_elsewhere_the_decoration_does_nothing(monkeypatch):
    monkeypatch.delenv("SPACES_ZERO_GPU", raising=False)
    monkeypatch.setitem(sys.modules, "spaces", None)

    @zerogpu.on_gpu(lambda: 5)
    def count() -> Iterator[int]:
        yield from (1, 2)

    assert list(count()) == [1, 2]


def test_on_such_a_space_the_generator_is_decorated_with_its_duration(monkeypatch):
    asked: list[int] = []

    class Spaces:
        @staticmethod
        def GPU(duration: Callable[..., int]) -> Callable[[Any], Any]:
            def decorate(generator: Any) -> Any:
                def lent(*args: Any) -> Iterator[Any]:
                    asked.append(duration(*args))
                    return generator(*args)

                return lent

            return decorate

    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    monkeypatch.setitem(sys.modules, "spaces", Spaces)

    @zerogpu.on_gpu(lambda top: top * 10)
    def count(top: int) -> Iterator[int]:
        yield from range(top)

    assert list(count(3)) == [0, 1, 2]
    assert asked == [30]


@pytest.fixture
def lent_engine(monkeypatch):
    engine = ScriptedEngine(lambda prefix, seed: "<Output>The answer is 3.</Output>")
    monkeypatch.setattr(zerogpu, "_engine", lambda model: engine)
    yield engine
    engine.close()


def sent(work):
    """As if it had gone to another process."""
    return pickle.loads(pickle.dumps(work))


def test_a_whole_search_goes_to_another_process_and_its_events_come_back(lent_engine, tmp_path):
    chosen = options("marco", rollouts=2)
    work = sent(partial(zerogpu.solve, options=chosen, question="How many?", runs=tmp_path, system="Be brief."))
    events = list(zerogpu.lent("a model", work, chosen, threading.Event()))
    assert isinstance(events[-1], SearchEnded)
    assert events[-1].stopped_by == "rollouts"
    assert sent(events) == events
    (run,) = tmp_path.glob("*.jsonl")
    more = sent(partial(zerogpu.resume, run=run, runs=tmp_path, rollouts=4, interventions=[("pin", "1.0", {})]))
    again = list(zerogpu.lent("a model", more, chosen, threading.Event()))
    assert Solution.of(again).rollouts == 4


def test_a_search_that_is_stopped_there_is_closed_and_has_an_end(lent_engine):
    chosen, stop = options("marco", rollouts=50), threading.Event()
    found = []
    for event in zerogpu.lent("a model", partial(zerogpu.solve, options=chosen, question="How?"), chosen, stop):
        found.append(event)
        if isinstance(event, RolloutFinished):
            stop.set()
    end = found[-1]
    assert isinstance(end, SearchEnded)
    assert (end.stopped_by, end.rollouts) == ("user", 1)
    assert sum(isinstance(event, SearchEnded) for event in found) == 1
