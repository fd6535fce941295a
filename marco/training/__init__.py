"""From data to a better model: read, filter and mix; make traces by search; fine-tune; merge.

- `sources` reads rows from files and data sets; `rules` says which are fit; `data` mixes, splits and reports.
- `synthesis` searches questions with known answers and keeps the traces that got there.
- `examples` turns rows into tokens and marks what carries loss; `memory` foretells what a run takes.
- `sft` runs it, `merge` puts an adapter into its model, and `commands` is `marco train`.

Importing this package is light; what it needs beyond Marco's own packages comes with `make setup-train`.
"""

from __future__ import annotations

import importlib.util

from marco.errors import UserMistake


def require(*packages: str) -> None:
    """Raise `UserMistake` where a package of requirements-train.txt is missing."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UserMistake(f"This needs {', '.join(missing)}: install what fine-tuning needs with `make setup-train`.")
