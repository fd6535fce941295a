"""The engines: what turns token prefixes into completions. `open_engine` picks and starts the right one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from marco.config import ModelConfig
    from marco.engines.base import Engine

__all__ = ["open_engine"]


def open_engine(config: ModelConfig, *, progress: Callable[[int, int, str], None] | None = None) -> Engine:
    """The engine that `config` asks for, with its model loaded; the model is fetched first if need be.

    `progress` is called with what is done, what there is in all (0 where unknown), and what is being done; also
    where the model taken is not the one that would have been (no hub in reach): `info.details["note"]` says so too.
    Raises `ModelUnavailable`, `ServerUnreachable`, `InvalidOption`.
    """
    from marco.errors import InvalidOption

    if config.adapter is not None:
        if config.base_urls or config.engine in ("server", "llama.cpp"):
            raise InvalidOption("adapter", config.adapter, "left out, or given with engine local")
        config = replace(config, engine="local")
    if config.base_urls or config.engine == "server":
        if config.engine not in ("auto", "server"):
            raise InvalidOption("base_url", config.base_urls[0], f"left out with engine {config.engine}")
        served: dict[str, Any] = {"model": config.model, "slots": config.slots, "context": config.context}
        if len(config.base_urls) > 1:
            from marco.engines.routing import open_servers

            return open_servers(config.base_urls, progress=progress, **served)
        from marco.engines.server import ServerEngine

        return ServerEngine(config.base_urls[0], progress=progress, **served)
    settings: dict[str, Any] = {"slots": config.slots, "context": config.context, "progress": progress}
    if config.model is not None and config.model.startswith("shape:"):
        from marco.engines.local import LocalEngine

        return LocalEngine(config.model, quantize=config.quantize, adapter=config.adapter, **settings)
    from marco.engines.models import resolve

    model = resolve(config.model, engine=config.engine, progress=progress)
    if config.engine == "llama.cpp" or (config.engine == "auto" and model.engine == "llama.cpp"):
        from marco.engines.llamacpp import LlamaCppEngine

        return LlamaCppEngine(model.path, name=model.name, model_hash=model.hash, note=model.note, **settings)
    from marco.engines.local import LocalEngine

    return LocalEngine(
        model.path,
        quantize=config.quantize,
        adapter=config.adapter,
        name=model.name,
        model_hash=model.hash,
        **settings,
    )
