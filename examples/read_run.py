"""Read a run file and say what each line of thought came to: `python examples/read_run.py RUN.jsonl`."""

import sys
from pathlib import Path

from marco.runs import read_run
from marco.tree import Tree


def main(path):
    run = read_run(Path(path))
    tree = Tree.fold(run.events)
    print(run.started.question)
    for number, rollout in tree.rollouts.items():
        steps = len(tree.path(tree.leaves[number])) - 1
        print(f"rollout {number}: {rollout.answer}, {steps} nodes deep, v = {tree.values[number]:.3f}")
    print(f"{len(tree)} nodes; the best path is {' > '.join(tree.best_path())}")


if __name__ == "__main__":
    main(sys.argv[1])
