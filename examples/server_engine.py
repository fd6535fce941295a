"""Search with a model on an OpenAI-compatible server: `python examples/server_engine.py http://127.0.0.1:8000`.

The server must answer its completions API with log-probabilities: llama.cpp, vLLM and SGLang do.
"""

import sys

from marco import ModelConfig, Solver, options


def main(base_url, model=None):
    config = ModelConfig(engine="server", base_urls=(base_url,), model=model)
    solver = Solver(config, options("marco", rollouts=4))
    solution = solver.solve("How many legs do three spiders have in total?")
    print(f"{solution.answer} (ended by {solution.stopped_by}, {solution.tokens['generated']} tokens)")
    solver.engine.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
