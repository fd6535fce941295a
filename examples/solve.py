"""Ask a question and watch the answer improve: `python examples/solve.py ["a question"]`."""

import sys

from marco import Solver, options
from marco.events import AnswerChosen, RolloutFinished

QUESTION = "A robe takes 2 bolts of blue fiber and half that much white fiber. How many bolts in total does it take?"


def main(engine=None, question=QUESTION):
    """`engine` may be any engine; by default the embedded model is opened."""
    solver = Solver(engine, options("marco", rollouts=4, seed=1))
    for event in solver.stream(question):
        if isinstance(event, RolloutFinished):
            print(f"rollout {event.rollout}: {event.answer} (v = {event.value:.3f})")
        elif isinstance(event, AnswerChosen):
            print(f"  best so far: {event.answer}, margin {event.confidence:.0%}")
    if engine is None:
        solver.engine.close()


if __name__ == "__main__":
    main(question=sys.argv[1] if len(sys.argv) > 1 else QUESTION)
