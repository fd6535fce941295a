"""Marco: Monte Carlo tree search over a language model's thoughts.

    from marco import Solver, options

    solution = Solver("qwen2.5-coder-1.5b", options("marco", rollouts=8)).solve("How many ...?")
    print(solution.answer, solution.confidence)

Read `marco.events` first (what happens), then `marco.search` (why), then `marco.solver` (how it comes together).
Importing this package loads no model library, no web library, and opens no connection.
"""

from marco.config import BudgetConfig, ModelConfig, Options, SamplingConfig, SearchConfig, options
from marco.errors import EngineError, MarcoError, UserMistake
from marco.session import Task
from marco.solver import Solution, Solver
from marco.tree import Node, Tree

__version__ = "0.1.0"

__all__ = [
    "Solver",
    "Solution",
    "Task",
    "Options",
    "options",
    "SearchConfig",
    "SamplingConfig",
    "BudgetConfig",
    "ModelConfig",
    "Tree",
    "Node",
    "MarcoError",
    "UserMistake",
    "EngineError",
]
