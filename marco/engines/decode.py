"""One decoding step for many rows: run the model's body, draw a token for each row.

`Decoder` runs the body (everything but the output head) of a transformers causal language model over `Slots`.
`draw` turns logits into tokens: raw log-probabilities and the five most probable tokens from one
log-normaliser, temperature and nucleus by inverse CDF over the most probable candidates. A row's draw is a
function of its own logits, seed and position, whatever shares the batch.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from marco.engines.kv import PrefillView, Slots, StepView

TOP = 5
"""Alternatives reported a token."""
CANDIDATES = 64
"""Most probable tokens looked at before the whole vocabulary is: they nearly always hold the nucleus."""

_log = logging.getLogger(__name__)

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * _MIX_1
    state = (state ^ (state >> np.uint64(27))) * _MIX_2
    return state ^ (state >> np.uint64(31))


def uniforms(seeds: NDArray[np.uint64], positions: NDArray[np.int64]) -> NDArray[np.float64]:
    """One number in [0, 1) a row, a function of its seed and position alone.

    SplitMix64 (Steele, Lea and Flood 2014) used as a counter: no state to keep, and a row that was put off goes on
    where it stood.
    """
    counters = _mix(seeds * _GOLDEN + _MIX_1) + (positions.astype(np.uint64) + np.uint64(1)) * _GOLDEN
    drawn: NDArray[np.float64] = (_mix(counters) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return drawn


@dataclass(frozen=True)
class Draw:
    """What came of one step, a row each."""

    tokens: NDArray[np.int64]
    """[rows]"""
    logprobs: NDArray[np.float32]
    """[rows]: raw natural log-probability, before temperature and nucleus."""
    top_ids: NDArray[np.int64]
    """[rows, 5], most probable first."""
    top_logprobs: NDArray[np.float32]
    """[rows, 5]"""
    sound: NDArray[np.bool_]
    """[rows]: False where the logits hold NaN or infinity and the rest of the row means nothing."""


def draw(
    logits: torch.Tensor,
    temperature: NDArray[np.float64],
    top_p: NDArray[np.float64],
    uniform: NDArray[np.float64],
) -> Draw:
    """Draw a token a row. `logits` [rows, vocabulary]; the others [rows]. Temperature 0 is greedy.

    The nucleus is the smallest set of most probable tokens, at that temperature, whose mass reaches `top_p`;
    within it the token is where the cumulative mass, most probable first, passes `uniform`.
    """
    logits = logits.float()
    settings = torch.from_numpy(np.stack([temperature, top_p, uniform]).astype(np.float32)).to(logits.device)
    heat, share, target = settings[0], settings[1], settings[2]
    normaliser = logits.logsumexp(-1)
    # +inf gives an infinite normaliser, NaN a NaN; a row of -inf alone has no distribution either.
    sound = normaliser.isfinite()
    values, indices = logits.topk(min(CANDIDATES, logits.shape[-1]), dim=-1)
    greedy = heat == 0
    sharpness = torch.where(greedy, 1.0, 1.0 / torch.where(greedy, 1.0, heat))[:, None]
    peak = values[:, :1]
    total = ((logits - peak) * sharpness).exp_().sum(-1)
    choice, found = _inverse_cdf(((values - peak) * sharpness).exp(), total, share, target)
    tokens = indices.gather(1, torch.where(greedy, 0, choice)[:, None])[:, 0]
    missing = ~(found | greedy) & sound
    for row in missing.nonzero()[:, 0].tolist():
        tokens[row] = _draw_from_all(logits[row], sharpness[row, 0], total[row], share[row], target[row])
    count = min(TOP, values.shape[-1])
    chosen = torch.cat([tokens[:, None], indices[:, :count]], 1).cpu().numpy()
    raw = torch.cat([logits.gather(1, tokens[:, None]), values[:, :count]], 1) - normaliser[:, None]
    known = raw.cpu().numpy()
    return Draw(chosen[:, 0], known[:, 0], chosen[:, 1:], known[:, 1:], sound.cpu().numpy())


def _draw_from_all(
    logits: torch.Tensor, sharpness: torch.Tensor, total: torch.Tensor, share: torch.Tensor, target: torch.Tensor
) -> torch.Tensor:
    """A token of one row [vocabulary] so flat that its candidates don't hold the nucleus."""
    weights = ((logits - logits.max()) * sharpness).exp_()
    # Tokens lighter than this weigh less than 1 - share together, so the nucleus lies among the others.
    heavy = (weights >= (1 - share) * total / weights.shape[0]).nonzero()[:, 0]
    ordered, order = weights[heavy].sort(descending=True)
    choice, _ = _inverse_cdf(ordered[None], total[None], share[None], target[None])
    return heavy[order[choice[0]]]


def _inverse_cdf(
    weights: torch.Tensor, total: torch.Tensor, share: torch.Tensor, target: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Index into descending `weights` [rows, n] for each row, and whether these n are enough to tell.

    `total` [rows] is the mass of the whole vocabulary, of which `weights` may be the beginning.
    """
    mass = weights.cumsum(-1)
    last = weights.shape[-1] - 1
    needed = share * total
    # Rounding may leave the whole mass a hair under the total: the end of the list is then the end of the nucleus.
    edge = (mass < needed[:, None]).sum(-1)
    closed = edge <= last
    edge = edge.clamp(max=last)
    nucleus = torch.where(closed, mass.gather(1, edge[:, None])[:, 0], total)
    wanted = target * nucleus
    choice = (mass <= wanted[:, None]).sum(-1)
    found = closed | ((share >= 1) & (choice <= last))
    return torch.minimum(choice, edge), found


class Decoder:
    """Runs a model's body. `model` is a transformers causal language model whose layers all attend to everything
    before them; its hidden states times its output head are its logits."""

    def __init__(self, model: Any) -> None:
        self.body = model.base_model
        self.head = model.get_output_embeddings()
        self.dtype: torch.dtype = self.body.embed_tokens.weight.dtype
        self.device: torch.device = self.body.embed_tokens.weight.device
        self.graphs: DecodeGraphs | None = DecodeGraphs() if self.device.type == "cuda" else None

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[rows, hidden] to [rows, vocabulary]."""
        result: torch.Tensor = self.head(hidden)
        return result

    def prefill(self, slots: Slots, slot: int, ids: tuple[int, ...], start: int, end: int) -> torch.Tensor:
        """Compute positions `start` to `end` of `ids` in a slot that holds those before; their hidden states."""
        tokens = torch.tensor([ids[start:end]], device=self.device)
        positions = torch.arange(start, end, device=self.device)
        seen = torch.arange(end, device=self.device)[None] <= positions[:, None]
        hidden = self._run(tokens, positions[None], seen[None, None], PrefillView(slots, slot, start, end))[0]
        slots.hidden[slot, start:end] = hidden
        return hidden

    def step(self, slots: Slots, tokens: NDArray[np.int64], positions: NDArray[np.int64]) -> None:
        """Compute one position for each of the first rows: `tokens` [rows] at `positions` [rows]."""
        if self.graphs is not None and self.graphs.step(self, slots, tokens, positions):
            return
        places = torch.from_numpy(positions).to(self.device)
        self.compute(slots, torch.from_numpy(tokens).to(self.device), places, int(positions.max()) + 1)

    def compute(self, slots: Slots, tokens: torch.Tensor, positions: torch.Tensor, length: int) -> None:
        """The step itself, in tensors of fixed shape once `length` is fixed; reads nothing back."""
        seen = torch.arange(length, device=self.device)[None] <= positions[:, None]
        view = StepView(slots, positions, length)
        hidden = self._run(tokens[:, None], positions[:, None], seen[:, None, None], view)[:, 0]
        slots.hidden[torch.arange(hidden.shape[0], device=self.device), positions] = hidden

    def _run(self, tokens: torch.Tensor, positions: torch.Tensor, seen: torch.Tensor, view: Any) -> torch.Tensor:
        # Additive once a step, not converted anew in each layer.
        mask = torch.zeros(seen.shape, dtype=self.dtype, device=self.device).masked_fill_(~seen, -torch.inf)
        output = self.body(
            input_ids=tokens, position_ids=positions, attention_mask=mask, past_key_values=view, use_cache=True
        )
        hidden: torch.Tensor = output.last_hidden_state
        return hidden


class DecodeGraphs:
    """CUDA graphs of the step, one for each rounded batch size and length: decoding isn't bound by launches.

    Rows that only fill up the batch write to slots that nobody uses. Where capture fails (a kernel that can't be
    captured, no memory for it) the step runs without graphs from then on, and `note` says why.
    """

    LENGTHS = 256

    def __init__(self) -> None:
        self.note = ""
        self._graphs: dict[tuple[int, int], Any] = {}
        self._generation = 0
        self._tokens = torch.empty(0)
        self._positions = torch.empty(0)
        self._pool: Any = None

    def step(self, decoder: Decoder, slots: Slots, tokens: NDArray[np.int64], positions: NDArray[np.int64]) -> bool:
        """Run the step as a graph; False where the caller has to run it itself."""
        if self.note:
            return False
        if self._generation != slots.generation:
            self._renew(decoder, slots)
        rows = len(tokens)
        batch = min(1 << (rows - 1).bit_length(), slots.count)
        length = min(-(-(int(positions.max()) + 1) // self.LENGTHS) * self.LENGTHS, slots.capacity)
        self._tokens[:rows].copy_(torch.from_numpy(tokens))
        self._positions[:rows].copy_(torch.from_numpy(positions))
        # A row that fills up must not write into what a joining row has already been given: it has no row yet.
        self._positions[rows:batch].zero_()
        graph = self._graphs.get((batch, length))
        if graph is None:
            try:
                graph = self._capture(decoder, slots, batch, length)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                self.note = f"no CUDA graphs: {str(error).splitlines()[0]}"
                _log.warning("Decoding goes on without CUDA graphs: %s", error)
                self._graphs.clear()
                return False
            self._graphs[batch, length] = graph
        graph.replay()
        return True

    def _renew(self, decoder: Decoder, slots: Slots) -> None:
        self._graphs.clear()
        self._generation = slots.generation
        self._tokens = torch.zeros(slots.count, dtype=torch.long, device=decoder.device)
        self._positions = torch.zeros(slots.count, dtype=torch.long, device=decoder.device)
        self._pool = torch.cuda.graph_pool_handle()

    def _capture(self, decoder: Decoder, slots: Slots, batch: int, length: int) -> Any:
        def run() -> None:
            decoder.compute(slots, self._tokens[:batch], self._positions[:batch], length)

        # Kernels choose their algorithms, and allocate what they keep, in a few runs beforehand. They write what
        # the replay then writes again.
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            run()
        return graph
