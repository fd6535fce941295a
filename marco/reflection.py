"""When to reflect, and what is said.

At the end of its thought the model is told, in its own voice, that it may have made mistakes
(arXiv 2411.14405, section 4), and thinks on from there.
"""

from __future__ import annotations

from dataclasses import dataclass

from marco.config import SearchConfig
from marco.events import RolloutFinished

SENTENCE = "Wait! Maybe I made some mistakes! I need to rethink from scratch."
"""The paper's sentence, to the letter."""

FORCED_TEXT = f"\n\n{SENTENCE}\n\n"


@dataclass(frozen=True, slots=True)
class Reflection:
    """The policy, and the sentence as the model's tokens."""

    policy: str
    """`off`, `low-confidence` or `always`."""
    below: float
    """`low-confidence` reflects where the rollout's mean token confidence is under this."""
    limit: int
    """Reflections on one path."""
    token_ids: tuple[int, ...]
    text: str = FORCED_TEXT

    @classmethod
    def of(cls, config: SearchConfig, token_ids: tuple[int, ...]) -> Reflection:
        return cls(config.reflection, config.reflect_below, config.max_reflections, token_ids)

    def wanted(self, rollout: RolloutFinished, reflections: int) -> bool:
        """Whether `rollout`, whose path holds `reflections` already, is to be reflected on.

        One that was cut off has no end of thought to reflect at.
        """
        if self.policy == "off" or reflections >= self.limit or rollout.thought_segments is None:
            return False
        if self.policy == "always":
            return True
        confidence = rollout.statistics.get("mean")
        return confidence is not None and confidence < self.below
