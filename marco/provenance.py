"""Where a figure comes from: the commit, the machine and the memory that every benchmark and record names."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path


@functools.cache
def commit() -> str:
    """The commit that Marco runs from, with `-dirty` where files differ from it; empty where it isn't a checkout."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--exclude", "*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def machine() -> str:
    """Processor, cores, memory, system, and the GPU where torch is in use and sees one."""
    parts = [f"{os.cpu_count()} x {_processor()}"]
    with contextlib.suppress(ValueError, OSError, AttributeError):
        parts.append(f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB")
    parts.append(f"{platform.system()}, Python {platform.python_version()}")
    torch = sys.modules.get("torch")
    if torch is not None:
        parts.append(f"torch {torch.__version__}")
        if torch.cuda.is_available():
            parts.append(torch.cuda.get_device_name())
    return ", ".join(parts)


def _processor() -> str:
    with contextlib.suppress(OSError):
        match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        if match:
            return match.group(1).strip()
    return platform.processor() or platform.machine()


def peak_memory_bytes() -> int:
    """The most memory that this process and its children held so far; with CUDA the most that torch allocated there."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    own = 0
    with contextlib.suppress(ImportError):  # Windows has no such module
        import resource

        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return int(own + sum(_peak_of(child) for child in _children()))


def _children(process: str = "self") -> Iterator[str]:
    """Ids of all living descendants, where the system lists them under /proc."""
    for listing in Path(f"/proc/{process}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in listing.read_text().split():
                yield child
                yield from _children(child)


def _peak_of(process: str) -> int:
    """The high-water mark of a living process."""
    with contextlib.suppress(OSError):
        match = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
        if match:
            return int(match.group(1)) * 1024
    return 0
