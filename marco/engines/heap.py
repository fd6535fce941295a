"""Freed memory stays with the process.

A step of many rows makes and frees arrays of tens of megabytes (the logits of 64 rows are 39). glibc hands blocks
of that size back to the kernel at once, and the kernel clears every page before it gives it out again: a sixth of a
step, spent on forgetting. Steps of few rows gain nothing. Figures: "Memory that is kept" in benchmarks/RESULTS.md.
"""

from __future__ import annotations

import ctypes
import os

M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
"""Parameters of `mallopt`, as <malloc.h> of glibc numbers them."""

MANY_ROWS = 32
"""Rows a step from which it pays: their logits outgrow what glibc keeps by itself (32 MiB)."""

LARGEST = 2**31 - 1
"""Bytes: the most that `mallopt` can be told."""


def keep() -> bool:
    """Ask glibc to keep what is freed for what comes next; False where there is no glibc or a person set it otherwise.

    The process then holds on to the most that it ever needed, which a step reaches again anyway.
    """
    if any(name.startswith("MALLOC_") for name in os.environ) or "GLIBC_TUNABLES" in os.environ:
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    mallopt.argtypes = (ctypes.c_int, ctypes.c_int)
    mallopt.restype = ctypes.c_int
    return all(mallopt(name, LARGEST) == 1 for name in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD))
