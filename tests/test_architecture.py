"""Dependencies run one way, and importing the package is light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

LAYERS = [
    "errors", "provenance", "config", "logs", "engines.base", "events", "reward", "tree", "actions", "prompts",
    "answer", "degenerate", "reflection", "search", "engines", "runs", "session", "solver", "zerogpu", "export",
    "terminal", "translation", "evaluation", "training", "deploy", "benchmarks", "cli", "__main__",
]  # fmt: skip
"""A module imports only from layers before its own."""


def layer_of(module: str) -> int:
    """Index in LAYERS of a module name below `marco`."""
    best = max((name for name in LAYERS if module == name or module.startswith(name + ".")), key=len)
    return LAYERS.index(best)


def modules() -> list[Path]:
    return [path for path in (ROOT / "marco").rglob("*.py") if path != ROOT / "marco" / "__init__.py"]


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT / "marco").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, top_level_only: bool = False) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = []
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            module = node.module or ""
            found += [module, *(f"{module}.{alias.name}" for alias in node.names)]
    return found


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_a_module_imports_only_from_the_layers_above_it(path):
    own = layer_of(name_of(path))
    known = {name_of(module) for module in modules()}
    for name in imports(path, top_level_only=True):
        if name.startswith("marco.") and name.removeprefix("marco.") in known:
            imported = name.removeprefix("marco.")
            assert layer_of(imported) <= own, f"{name_of(path)} imports {imported}"


def test_the_core_knows_no_ui():
    for path in modules():
        if name_of(path) in ("cli",) or name_of(path).startswith("benchmarks"):
            continue
        assert not [name for name in imports(path) if name.split(".")[0] in ("ui", "gradio")], path


def test_the_ui_knows_no_torch():
    for path in (ROOT / "ui").rglob("*.py"):
        assert not [name for name in imports(path) if name.split(".")[0] in ("torch", "transformers")], path


def test_no_module_is_called_utils():
    names = {path.stem for path in [*modules(), *(ROOT / "ui").rglob("*.py")]}
    assert not names & {"utils", "util", "helpers", "common", "misc"}


def test_importing_marco_is_light():
    heavy = "torch transformers gradio httpx plotly networkx numpy xllamacpp sacrebleu lingua tokenizers"
    code = f"import marco, sys; print([name for name in {heavy.split()!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "[]"


def test_every_package_that_is_imported_is_required():
    """What came in by another package's grace, or by hand, is missing on the next machine."""
    import importlib.metadata
    import re

    files = ("requirements.txt", "requirements-train.txt")
    named = [
        name for file in files for name in re.findall(r"^([A-Za-z0-9_.-]+)", (ROOT / file).read_text(), re.MULTILINE)
    ]
    required = {re.sub(r"[-_.]+", "-", name).lower() for name in named} | {"spaces"}
    owners = importlib.metadata.packages_distributions()
    own = {path.stem for path in (ROOT / "tests").iterdir()} | {"marco", "ui", "app"}
    files = [*modules(), *(ROOT / "ui").rglob("*.py"), *(ROOT / "tests").rglob("*.py"), ROOT / "app.py"]
    for path in files:
        for name in {found.split(".")[0] for found in imports(path)} - own - sys.stdlib_module_names - {""}:
            found = {re.sub(r"[-_.]+", "-", owner).lower() for owner in owners.get(name, [name])}
            assert found & required, f"{path.relative_to(ROOT)} imports {name}, which requirements.txt does not name"
