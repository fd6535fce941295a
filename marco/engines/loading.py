"""From a path to a model in memory: how it is quantized, what that will take, and what to do with GGUF files.

`plan` decides before anything large is read: it predicts the bytes of the weights and of the working memory and
refuses with the figures what can't fit. `load` then reads the weights; a GGUF file is converted to safetensors once,
into Marco's cache. `shape:` names are models of a known architecture with random weights, for benchmarks.
Importing this module imports torch, but no model code.
"""

from __future__ import annotations

import errno
import gc
import math
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from marco.engines import int8
from marco.engines.kv import Geometry
from marco.errors import InvalidOption, ModelUnavailable

Progress = Callable[[int, int, str], None]

ARCHITECTURES = ("llama", "qwen2", "qwen3")
"""Model types whose layers all attend to everything before them, and whose head is a plain product."""

SHAPE = "shape:"
SHAPES: dict[str, dict[str, Any]] = {
    "marco-o1": {
        "vocab_size": 152_064,
        "hidden_size": 3584,
        "intermediate_size": 18_944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "max_position_embeddings": 32_768,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
        "tie_word_embeddings": False,
    },
    "tiny": {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
    },
}
"""Architectures (all Qwen2) that can be built without a download."""

LOGIT_SPREAD = 10.0
"""Standard deviation of the logits of a model with random weights: a nucleus of 0.95 then holds some five tokens."""

FOUR_BIT_BEFORE_EIGHT = ("marco-o1", "shape:marco-o1")
"""On a GPU without room for their weights as they are: 4 bits decode twice as fast as 8. Where there is room nothing is
faster than that: several rows share what reading the weights costs, and unpacking them costs more (seen on an H200)."""

_BYTES_4BIT = 0.5 + 1 / 64 + 4 / (64 * 256)
"""A weight in nf4: half a byte, and its share of the doubly quantized scales."""
_BYTES_8BIT = 1.0
_ROOM_POSITIONS = 1024
"""Positions a row for which there must be room beside the weights."""
_OVERHEAD = {"cpu": 300 << 20, "cuda": 1 << 30}
"""What the libraries themselves and the activations take."""
_USABLE = 0.95


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a model will be loaded."""

    quantize: str
    """`none`, `8bit` or `4bit`."""
    dtype: torch.dtype
    """Of what is not quantized, and of the computation."""
    device: torch.device
    weight_bytes: int
    room_bytes: int
    """Working memory beside the weights: cache, activations, libraries."""
    free_bytes: int
    """Free on the device before loading."""
    why: str
    """One sentence."""

    @property
    def predicted_bytes(self) -> int:
        return self.weight_bytes + self.room_bytes


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def free_memory(device: torch.device) -> int:
    """Bytes that can be had on a device now."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # What this process has set aside and doesn't use is free for it, too.
        return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    import psutil  # type: ignore[import-untyped]

    free = int(psutil.virtual_memory().available)  # type: ignore[no-untyped-call]
    return min(free, _group_allowance())


def _group_allowance() -> int:
    """What the control group that this process lives in still allows: containers are smaller than their host."""
    folder = Path("/sys/fs/cgroup")
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            return max(0, int((folder / limit).read_text()) - int((folder / used).read_text()))
        except (OSError, ValueError):
            continue
    return 1 << 62


def fast_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 itself; one that emulates it is faster in float32."""
    flags = int8.processor_flags()
    return flags is None or not flags.isdisjoint(("amx_bf16", "avx512_bf16"))


def read_config(source: str | Path) -> Any:
    """The transformers configuration of a folder, a GGUF file or a `shape:` name. Raises `ModelUnavailable`."""
    from transformers import AutoConfig, Qwen2Config

    text = str(source)
    if text.startswith(SHAPE):
        name = text.removeprefix(SHAPE)
        if name not in SHAPES:
            known = ", ".join(SHAPE + shape for shape in SHAPES)
            raise ModelUnavailable(f"There is no model {text!r}; the shapes are {known}.")
        return Qwen2Config(**SHAPES[name])
    path = Path(source)
    try:
        if path.is_file():
            config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
        else:
            config = AutoConfig.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error).strip().splitlines()
        raise ModelUnavailable(
            f"No model can be read from {path}: {reason[0] if reason else type(error).__name__}"
        ) from error
    check_architecture(config, text)
    return config


def check_architecture(config: Any, name: str) -> None:
    """Refuse what this engine would compute wrongly."""
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if config.model_type not in ARCHITECTURES or kinds != {"full_attention"}:
        raise ModelUnavailable(
            f"{name} is of type {config.model_type!r}; engine local runs {', '.join(ARCHITECTURES)} with full "
            "attention, and engine llama.cpp or server may run others."
        )


def geometry(config: Any, dtype: torch.dtype, device: torch.device) -> Geometry:
    heads = config.num_attention_heads
    return Geometry(
        layers=config.num_hidden_layers,
        kv_heads=config.num_key_value_heads or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        hidden=config.hidden_size,
        dtype=dtype,
        device=device,
    )


def weight_counts(config: Any) -> tuple[int, int]:
    """Numbers of weights: those in layers that quantization applies to, and all others."""
    from torch import nn

    with torch.device("meta"):
        model = _causal_models().from_config(config)
    total = sum(parameter.numel() for parameter in model.parameters())
    linear = sum(m.weight.numel() for m in model.base_model.modules() if isinstance(m, nn.Linear))
    return linear, total - linear


def weight_bytes(counts: tuple[int, int], quantize: str, dtype: torch.dtype) -> int:
    linear, rest = counts
    each = {"4bit": _BYTES_4BIT, "8bit": _BYTES_8BIT, "none": float(dtype.itemsize)}[quantize]
    return math.ceil(linear * each) + rest * dtype.itemsize


def plan(
    config: Any,
    quantize: str = "auto",
    *,
    name: str = "",
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    slots: int = 32,
    context: int = 8192,
    free: int | None = None,
) -> Plan:
    """Decide how to load a model, by prediction alone. `free` (bytes) is measured where it isn't given.

    `auto` takes the most exact form that fits: none, 8bit, 4bit; Marco-o1 on a GPU is 4bit. On a CPU without
    bfloat16 instructions the unquantized form is float32 where that fits. Raises `ModelUnavailable` with the
    figures where nothing fits, `InvalidOption` for an unknown `quantize`.
    """
    if quantize not in ("auto", "4bit", "8bit", "none"):
        raise InvalidOption("quantize", quantize, "one of auto, 4bit, 8bit, none")
    device = device or default_device()
    free = free_memory(device) if free is None else free
    counts = weight_counts(config)
    rejected: list[str] = []
    for form, kind, reason in _candidates(quantize, name, device, dtype):
        weights = weight_bytes(counts, form, kind)
        if in_integers(form, device):
            # The head, too, is a matrix of integers; where it was the embedding, beside it.
            head = config.vocab_size * config.hidden_size
            weights += head if config.tie_word_embeddings else head * (1 - kind.itemsize)
        positions = slots * min(context, _ROOM_POSITIONS) + context
        room = geometry(config, kind, device).bytes_per_position * positions + _OVERHEAD.get(device.type, 1 << 30)
        label = _label(form, kind)
        # Integers are made from bfloat16 weights, each matrix in its turn.
        reading = 2 * sum(counts) if in_integers(form, device) else 0
        if max(weights, reading) + room <= free * _USABLE:
            too_large = f", as {', '.join(rejected)} would not fit" if rejected else ""
            why = f"{label}: {reason}{too_large}; {_gb(weights + room)} of {_gb(free)} free."
            return Plan(
                quantize=form,
                dtype=kind,
                device=device,
                weight_bytes=weights,
                room_bytes=room,
                free_bytes=free,
                why=why,
            )
        rejected.append(f"{label} ({_gb(weights)} of weights and {_gb(room)} to work in)")
    advice = "take a smaller model" if quantize in ("auto", "4bit") else "try quantize 4bit"
    raise ModelUnavailable(
        f"{name or config.model_type} does not fit into the {_gb(free)} that are free on {device}: "
        f"{', '.join(rejected)}; {advice}, fewer slots than {slots}, or a shorter context than {context}."
    )


def in_integers(form: str, device: torch.device) -> bool:
    """Whether a form is computed by `marco.engines.int8`, not by bitsandbytes."""
    return form == "8bit" and device.type == "cpu" and int8.fast()


def _candidates(
    quantize: str, name: str, device: torch.device, dtype: torch.dtype | None
) -> list[tuple[str, torch.dtype, str]]:
    """(form, dtype, why it comes here), best first."""
    half = torch.bfloat16
    if device.type == "cuda" and torch.cuda.is_available() and not torch.cuda.is_bf16_supported():
        half = torch.float16
    slow = device.type == "cpu" and not fast_bfloat16()
    compute = dtype or half
    whole = torch.float32 if dtype is None and slow and int8.fast() else compute
    if quantize in ("4bit", "8bit"):
        return [(quantize, whole if quantize == "8bit" else compute, "as asked")]
    plain: list[tuple[str, torch.dtype, str]]
    if dtype is not None:
        plain = [("none", dtype, "as asked")]
    elif slow:
        plain = [
            ("none", torch.float32, "this processor has no bfloat16 instructions"),
            ("none", half, "half the memory of float32"),
        ]
    else:
        plain = [("none", half, "the weights as they are")]
    if quantize == "none":
        return plain
    if device.type == "cuda" and name in FOUR_BIT_BEFORE_EIGHT:
        return [*plain, ("4bit", compute, "the fastest form on a GPU that is smaller than the weights as they are")]
    return [*plain, ("8bit", whole, "the most exact that fits"), ("4bit", compute, "the smallest form")]


def _label(form: str, dtype: torch.dtype) -> str:
    return {"4bit": "4bit (nf4)", "8bit": "8bit (int8)", "none": str(dtype).removeprefix("torch.")}[form]


def _gb(count: float) -> str:
    return f"{count / 1e9:.2f} GB"


def model_bytes(model: Any) -> int:
    """Bytes that a model's weights take now, the scales of quantized ones included."""
    seen: dict[int, int] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        seen[tensor.data_ptr() or id(tensor)] = tensor.nbytes
        state = getattr(tensor, "quant_state", None)
        for part in _quantization_tensors(state):
            seen[part.data_ptr()] = part.nbytes
    return sum(seen.values())


def _quantization_tensors(state: Any) -> list[torch.Tensor]:
    if state is None:
        return []
    parts = [getattr(state, key, None) for key in ("absmax", "code", "offset")]
    return [part for part in parts if isinstance(part, torch.Tensor)] + _quantization_tensors(
        getattr(state, "state2", None)
    )


def load(source: str | Path, decided: Plan, *, adapter: str | None = None, progress: Progress | None = None) -> Any:
    """Read a model's weights as planned. Raises `ModelUnavailable` for a folder that is damaged."""
    report = progress or silent
    if str(source).startswith(SHAPE):
        report(0, 0, f"Building {source}")
        return build_shape(str(source), decided)
    path = Path(source)
    if path.is_file():
        path = convert_gguf(path, progress=report)
    report(0, 0, f"Loading {path.name}")
    integers = in_integers(decided.quantize, decided.device)
    model = _read(path, decided, torch.bfloat16 if integers else decided.dtype)
    if adapter is not None:
        report(0, 0, f"Loading the adapter {adapter}")
        _adapt(model, adapter)
        if integers:
            _merge(model)
    if integers:
        int8.quantize(model)
        model = model.to(decided.dtype)
    return _ready(model, decided)


def _ready(model: Any, decided: Plan) -> Any:
    if decided.quantize == "8bit" and decided.device.type == "cuda":
        int8.keep_activations(model, decided.dtype)
    return model.eval()


def _read(path: Path, decided: Plan, dtype: torch.dtype) -> Any:
    from safetensors import SafetensorError

    options: dict[str, Any] = {}
    if decided.quantize != "none" and not in_integers(decided.quantize, decided.device):
        options["quantization_config"] = _bitsandbytes(decided)
    try:
        return _causal_models().from_pretrained(
            path,
            dtype=dtype,
            device_map={"": str(decided.device)},
            attn_implementation="sdpa",
            local_files_only=True,
            **options,
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        reason = str(error).strip().splitlines()
        raise ModelUnavailable(
            f"The model in {path} can't be read ({reason[0] if reason else type(error).__name__}); fetch it again."
        ) from error


def _causal_models() -> Any:
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    # Marco reports progress itself; bars in between would tear it.
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    return AutoModelForCausalLM


def _bitsandbytes(decided: Plan) -> Any:
    import transformers

    config: Any = transformers.BitsAndBytesConfig
    if decided.quantize == "8bit":
        return config(load_in_8bit=True)
    return config(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=decided.dtype,
    )


def _adapt(model: Any, adapter: str) -> None:
    """Put a PEFT adapter into a model."""
    folder = Path(adapter).expanduser()
    if not (folder / "adapter_config.json").is_file():
        raise ModelUnavailable(f"{folder} holds no adapter: there is no adapter_config.json in it.")
    try:
        model.load_adapter(str(folder))
    except ImportError as error:
        raise ModelUnavailable(f"The adapter {folder} needs the package peft: pip install peft.") from error
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelUnavailable(f"The adapter {folder} does not go with this model: {error}") from error


def _merge(model: Any) -> None:
    """Add what an adapter learnt to the weights, so that they can be rounded as one."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for path, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            model.set_submodule(path, module.get_base_layer())


# GGUF


def converted_folder(path: Path) -> Path:
    """Where the safetensors of a GGUF file lie, or will lie."""
    from marco.engines.models import cache_folder, file_hash

    return cache_folder() / "converted" / f"{path.stem}-{file_hash(path)[:12]}"


def convert_gguf(path: Path, progress: Progress | None = None) -> Path:
    """The folder with a GGUF file's weights as bfloat16 safetensors; made on the first call, which takes a while.

    Raises `ModelUnavailable` for a damaged file, or with the space that is missing on disk.
    """
    from filelock import FileLock

    folder = converted_folder(path)
    if (folder / "config.json").is_file():
        return folder
    (progress or silent)(0, 0, f"Converting {path.name} to safetensors (once)")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(str(folder) + ".lock"):
            if not (folder / "config.json").is_file():
                _convert(path, folder)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise ModelUnavailable(f"{path} could not be converted into {folder}: {error}.") from error
        raise _no_room(folder.parent, path.stat().st_size * 4) from error
    return folder


def _convert(path: Path, folder: Path) -> None:
    from transformers import GgufConfig

    config = read_config(path)
    needed = sum(weight_counts(config)) * 2
    if shutil.disk_usage(folder.parent).free < needed:
        raise _no_room(folder.parent, needed)
    try:
        # With the configuration at hand the file's metadata, hundreds of thousands of strings, are parsed once less.
        model = _causal_models().from_pretrained(
            path.parent,
            config=config,
            gguf_file=path.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.bfloat16,
        )
    except (ValueError, KeyError, RuntimeError, IndexError) as error:
        reason = str(error).strip().splitlines()
        raise ModelUnavailable(
            f"{path} can't be read as GGUF ({reason[0] if reason else type(error).__name__}); fetch it again."
        ) from error
    # A dense model that still carries these refuses to be saved.
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    # The file stores head and embedding apart, each rounded in its own way: as one they would be another model.
    model.config.tie_word_embeddings = (
        model.get_output_embeddings().weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    )
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=folder.name))
    try:
        model.save_pretrained(temporary)
        temporary.replace(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    del model
    gc.collect()


def _no_room(folder: Path, needed: int) -> ModelUnavailable:
    free = shutil.disk_usage(folder).free
    return ModelUnavailable(
        f"There is no room in {folder}: {_gb(needed)} are needed and {_gb(free)} are free; make room, or set "
        "MARCO_CACHE to a folder on a larger disk."
    )


# Shapes


def build_shape(name: str, decided: Plan) -> Any:
    """A model with random weights, built on its device layer by layer: no more than one layer is ever held twice."""
    from torch import nn

    config = read_config(name)
    config._attn_implementation = "sdpa"
    integers = in_integers(decided.quantize, decided.device)
    with torch.device("meta"):
        model = _causal_models().from_config(config, dtype=decided.dtype)
    generator = torch.Generator(decided.device).manual_seed(0)

    def random(parameter: torch.Tensor, spread: float = config.initializer_range) -> torch.Tensor:
        tensor = torch.empty(parameter.shape, dtype=decided.dtype, device=decided.device)
        return tensor.normal_(0.0, spread, generator=generator)

    head = model.get_output_embeddings()
    for path, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and module is not head and decided.quantize != "none" and not integers:
            model.set_submodule(path, _quantized(module, random, decided))
            continue
        for key, parameter in list(module.named_parameters(recurse=False)):
            if parameter.dim() == 1 and key == "weight":
                filled = torch.ones_like(parameter, device=decided.device)
            elif module is head:
                # Spreads the logits about as far as training does: sampling from a flat vocabulary is other work.
                filled = random(parameter, LOGIT_SPREAD / math.sqrt(config.hidden_size))
            else:
                filled = random(parameter)
            setattr(module, key, nn.Parameter(filled, requires_grad=False))
    # Its tables are computed in the constructor, so they are made anew where there is memory behind them.
    model.base_model.rotary_emb = type(model.base_model.rotary_emb)(config).to(decided.device)
    if integers:
        int8.quantize(model)
    return _ready(model, decided)


def _quantized(linear: Any, random: Callable[[torch.Tensor], torch.Tensor], decided: Plan) -> Any:
    import bitsandbytes
    from torch import nn

    bnb: Any = bitsandbytes
    sizes = (linear.in_features, linear.out_features, linear.bias is not None)
    weight = random(linear.weight)
    with torch.device("meta"):
        if decided.quantize == "4bit":
            layer = bnb.nn.Linear4bit(*sizes, compute_dtype=decided.dtype, compress_statistics=True, quant_type="nf4")
        else:
            layer = bnb.nn.Linear8bitLt(*sizes, has_fp16_weights=False, threshold=6.0)
    if decided.quantize == "4bit":
        layer.weight = bnb.nn.Params4bit(
            weight, requires_grad=False, compress_statistics=True, quant_type="nf4", module=layer
        )
    else:
        # Integers are made of what comes from the processor's memory, and of nothing else.
        layer.weight = bnb.nn.Int8Params(weight.cpu(), requires_grad=False, has_fp16_weights=False)
    if linear.bias is not None:
        layer.bias = nn.Parameter(random(linear.bias), requires_grad=False)
    return layer.to(decided.device)


def silent(_done: int, _total: int, _what: str) -> None:
    """Progress that nobody watches."""
