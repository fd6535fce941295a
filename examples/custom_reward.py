"""Steer a search by a reward of your own, here one that likes short thoughts: `python examples/custom_reward.py`."""

from marco import Solver, options


def brevity(rollout):
    """A number for a finished rollout; higher is better. Any scale: the search normalises."""
    return 1.0 / len(rollout.token_ids)


def main(engine=None):
    solver = Solver(engine, options("marco", rollouts=6, select="best"), reward=brevity)
    solution = solver.solve("What is 17 * 3?")
    for number, rollout in solution.tree.rollouts.items():
        print(f"rollout {number}: {len(rollout.token_ids)} tokens, answer {rollout.answer}")
    print(f"shortest: {solution.answer}")
    if engine is None:
        solver.engine.close()


if __name__ == "__main__":
    main()
