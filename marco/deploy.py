"""`marco deploy space NAME`: the folder that a Hugging Face Space needs, and its upload.

`Space.yaml` is the one source of the Space's metadata: it becomes the front matter of the README that is written here,
after the hub library's own schema has accepted it. What is uploaded is the app and what it needs to run, no tests.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marco.errors import InvalidOption, ModelUnavailable, UserMistake

if TYPE_CHECKING:
    from huggingface_hub import SpaceCardData

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("app.py", "marco", "ui", "LICENSE", "Space.yaml")
"""What of the checkout goes into a Space."""
FOR_DEVELOPERS = ("pytest", "playwright", "axe-playwright", "hypothesis", "ruff", "mypy")
"""Beginnings of the names of packages that run nothing."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")

_README = """
# {title}

Ask a question and watch a language model search its own thoughts: Monte Carlo tree search over a model's reasoning,
live. The model is `{model}` on a Space without a GPU, and `AIDC-AI/Marco-o1` on one with a GPU.
"""


def metadata(root: Path = ROOT) -> SpaceCardData:
    """What `Space.yaml` says, as the hub library understands it. Raises `UserMistake` where it says nothing sound."""
    import yaml  # type: ignore[import-untyped]
    from huggingface_hub import SpaceCardData

    path = root / "Space.yaml"
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserMistake(f"There is no {path}: deploy from a checkout of Marco.") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserMistake(f"{path} can't be read: {' '.join(str(error).split())[:200]}.") from None
    if not isinstance(given, dict) or not all(isinstance(name, str) for name in given):
        raise UserMistake(f"{path} must name the Space's fields, one a line.")
    try:
        return SpaceCardData(**given)
    except (TypeError, ValueError) as error:
        raise UserMistake(f"{path} is no Space's metadata: {error}.") from None


def requirements(root: Path = ROOT) -> str:
    """The packages that run the app, with their pins; Gradio's comes from the Space's own `sdk_version`."""
    lines = (root / "requirements.txt").read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if not line.startswith((*FOR_DEVELOPERS, "gradio=="))]
    return "\n".join(kept) + "\n"


def write_space(folder: Path, root: Path = ROOT) -> list[str]:
    """Write everything that the Space needs into `folder`, which is emptied first; returns the names of what is there.

    Raises `UserMistake` for a folder that holds something else than a Space.
    """
    card = metadata(root)
    if folder.exists() and any(folder.iterdir()) and not (folder / "Space.yaml").is_file():
        raise UserMistake(f"{folder} holds something else: name an empty folder, or one that this command wrote.")
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for part in PARTS:
            source = root / part
            if source.is_dir():
                shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
            else:
                shutil.copy2(source, folder / part)
        from marco.engines.models import EMBEDDED

        body = _README.format(title=card.title, model=EMBEDDED)
        (folder / "README.md").write_text(f"---\n{card.to_yaml()}\n---\n{body}", encoding="utf-8")
        (folder / "requirements.txt").write_text(requirements(root), encoding="utf-8")
    except OSError as error:
        raise UserMistake(f"The Space can't be written to {folder}: {error.strerror or error}.") from None
    return sorted(path.name for path in folder.iterdir())


def upload_space(name: str, folder: Path, *, private: bool = False) -> str:
    """Create the Space if need be, make its files those of `folder`, and return its address.

    The token is the one that the hub's own tools keep (`hf auth login`, or `HF_TOKEN`). Raises `ModelUnavailable` in
    offline mode, `UserMistake` where the hub refuses.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError

    from marco.engines.models import offline

    check_name(name)
    if offline() or constants.HF_HUB_OFFLINE:
        raise ModelUnavailable("Nothing is uploaded in offline mode; --dry-run writes the folder only.")
    api = HfApi()
    try:
        made = api.create_repo(name, repo_type="space", space_sdk="gradio", private=private, exist_ok=True)
        api.upload_folder(
            repo_id=made.repo_id,
            repo_type="space",
            folder_path=folder,
            commit_message="Marco",
            delete_patterns=["*"],
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        told = " ".join(str(error).split())[:300]
        raise UserMistake(
            f"The hub did not take the Space {name} ({told}). Is there a token (`hf auth login`)?"
        ) from None
    return str(made)


def check_name(name: str) -> str:
    """`name` or `owner/name`. Raises `InvalidOption`."""
    if not _NAME.fullmatch(name) or ".." in name or name.endswith(".git"):
        raise InvalidOption("name", name, "the name of a Space: NAME or OWNER/NAME")
    return name


def deploy_space(name: str, folder: Path | None, *, dry_run: bool, private: bool) -> dict[str, Any]:
    """What `marco deploy space` does, and what it prints."""
    import tempfile

    check_name(name)
    target = folder or (ROOT / "dist" / "space" if dry_run else Path(tempfile.mkdtemp(prefix="marco-space-")) / "space")
    files = write_space(target)
    address = None if dry_run else upload_space(name, target, private=private)
    if not dry_run and folder is None:
        shutil.rmtree(target.parent, ignore_errors=True)
    return {"space": name, "folder": str(target), "files": files, "uploaded": not dry_run, "address": address}
