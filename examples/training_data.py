"""Sift training data with rules of your own choice: `python examples/training_data.py FILE`."""

import sys

from marco.training.rules import Dropped, Rules, sift
from marco.training.sources import read, source_of


def main(path):
    rules = Rules(format="repair", max_chars=8_000, output_language="any")
    kept = 0
    for row in sift(read(source_of(path)), rules):
        if isinstance(row, Dropped):
            print(f"{row.place}: {row.rule}: {row.why}")
        else:
            kept += 1
    print(f"{kept} rows are fit to learn from")


if __name__ == "__main__":
    main(*sys.argv[1:])
