"""From what a model wrote to one answer: take it apart, extract, normalise, vote.

Pure functions over text and small frozen objects; nothing here knows an engine, a tree or a reference answer.
Text is untrusted: every function accepts any string, and every pattern is bounded so that time grows with its length.

- `split_output` separates the thought from the output.
- `kind_of` reads off a question what its answer looks like; `extract` finds such an answer in an output.
- `normalise` gives the key under which two answers count as the same.
- `select` chooses among candidates; `settled` says whether more of them could still change a vote;
  `likeness` says how alike two texts are.
"""

from marco.answer.extraction import extract, normalise, same
from marco.answer.kinds import AnswerKind, kind_of
from marco.answer.output import split_output
from marco.answer.voting import Candidate, Choice, Selection, Vote, likeness, select, settled, vote_weights

__all__ = [
    "split_output",
    "AnswerKind",
    "kind_of",
    "extract",
    "normalise",
    "same",
    "Candidate",
    "Choice",
    "Selection",
    "Vote",
    "select",
    "settled",
    "vote_weights",
    "likeness",
]
