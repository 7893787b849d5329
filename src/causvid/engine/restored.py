"""What a state from a file must be before a session continues from it: then a damaged file fails here, not later.

Letters: F H latent frames, C h w a latent frame, M text tokens, D their width, T pixel frames.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from causvid.engine.session import Point, SessionState
from causvid.engine.step import Engine
from causvid.models.autoencoder import TIME_FACTOR


@torch.inference_mode()
def check_state(engine: Engine, state: SessionState) -> None:
    """Check a state whose geometry is already known to be right against the model.

    Raises:
        ValueError: for a size or a value that the model cannot have made.
    """
    point, geometry = state.point, state.geometry
    _check_text(engine, point)
    chunk = max(geometry.first, geometry.chunk)
    for name in ("pending", "given", "former", "latest"):
        part: Tensor | None = getattr(point, name)
        if part is not None:
            _check_shape(name, part, (1, None, *geometry.shape), most=chunk)
    _check_history(state)
    edge = engine.autoencoder.spatial_factor
    height, width = geometry.shape[1] * edge, geometry.shape[2] * edge
    if point.residual is not None:
        _check_shape("residual", point.residual, (1, 1, 3, height, width))
    if not point.applied or any(entry.frames < 0 for entry in point.applied) or point.frames < 0:
        raise ValueError("its prompts and frames do not fit each other")
    if not 0 < point.strength <= 1 or not 0 <= point.seed < 2**63:
        raise ValueError(f"strength={point.strength}, seed={point.seed}: expected (0, 1] and a number below 2^63")
    if state.random.dtype != torch.uint8 or state.random.ndim != 1:
        raise ValueError("its random state is none")
    if state.source is not None:
        _check_source(engine, state, (height, width))
    # The state of a decoder is the model's own affair: one more latent frame shows whether it is one.
    if point.decoder is not None:
        _check_finite("decoder", point.decoder.memories)
        try:
            blank = torch.zeros((1, 1, *geometry.shape), device=point.embedding.device)
            engine.autoencoder.decode_chunk(blank, point.decoder)
        except Exception as error:
            raise ValueError(f"the state of its decoder does not fit: {_line(error)}") from None


def _check_text(engine: Engine, point: Point) -> None:
    dim = engine.transformer.config.text_dim
    _check_shape("embedding", point.embedding, (1, None, dim))
    try:
        engine.transformer.encode_text(point.embedding)
    except RuntimeError as error:
        raise ValueError(f"embedding is {point.embedding.dtype}: {_line(error)}") from None
    if point.blend is not None:
        blend = point.blend
        if not 0 <= blend.done <= blend.chunks or blend.chunks < 1:
            raise ValueError(f"blend: {blend.done} of {blend.chunks} chunks are done")
        for name, end in (("start", blend.start), ("end", blend.end)):
            _check_shape(f"blend.{name}", end, tuple(point.embedding.shape))
            if end.dtype != point.embedding.dtype:
                raise ValueError(f"blend.{name} is {end.dtype}, expected {point.embedding.dtype}")


def _check_history(state: SessionState) -> None:
    history, geometry = state.point.history, state.geometry
    for name in ("window", "sink", "chunk"):
        if getattr(history, name) != getattr(geometry, name):
            raise ValueError(f"history.{name}={getattr(history, name)} is not {getattr(geometry, name)}")
    seen = history.latents.shape[1] if history.latents.ndim == 5 else -1
    _check_shape("history", history.latents, (1, seen, *geometry.shape), empty=True)
    if not (seen <= history.frames and seen <= geometry.window + geometry.sink and history.first >= 1):
        raise ValueError(f"history shows {seen} of {history.frames} latent frames, the first {history.first} a chunk")
    waiting = 0 if state.point.pending is None else state.point.pending.shape[1]
    for place, slots in state.cache.rows:
        if place + waiting != history.frames or any(slot < -1 or slot >= place for slot in slots):
            raise ValueError(f"its cache is at latent frame {place}, its history at {history.frames}")
    keys, values, sink = state.cache.keys, state.cache.values, state.cache.sink
    if (
        keys.ndim != 5
        or sink.ndim != 5
        or values.shape != keys.shape
        or len({keys.dtype, values.dtype, sink.dtype}) > 1
    ):
        raise ValueError(f"its cache has keys {list(keys.shape)} and values {list(values.shape)}, expected as many")
    _check_finite("cache", (state.cache.keys, state.cache.values, state.cache.sink))


def _check_source(engine: Engine, state: SessionState, size: tuple[int, int]) -> None:
    source = state.source
    assert source is not None
    if source.frames < 0 or (source.encoder is None) != (source.latest is None):
        raise ValueError(f"source: {source.frames} frames were read, which its encoder does not show")
    if source.latest is not None and (source.latest.dtype, tuple(source.latest.shape)) != (torch.uint8, (*size, 3)):
        raise ValueError(f"source: its last frame is {list(source.latest.shape)}, expected {[*size, 3]}")
    if source.encoder is not None:
        _check_finite("encoder", source.encoder.memories)
        try:
            blank = torch.zeros((1, TIME_FACTOR, 3, *size), device=state.point.embedding.device)
            engine.autoencoder.encode_chunk(blank, source.encoder)
        except Exception as error:
            raise ValueError(f"the state of its encoder does not fit: {_line(error)}") from None


def _check_shape(
    name: str, part: Tensor, shape: tuple[int | None, ...], *, most: int | None = None, empty: bool = False
) -> None:
    """Check a tensor's shape, where None is any size of at least 1 and at most `most`."""
    fits = part.ndim == len(shape) and part.is_floating_point()
    fits = fits and all(size == wanted or wanted is None for size, wanted in zip(part.shape, shape, strict=True))
    free = [size for size, wanted in zip(part.shape, shape, strict=False) if wanted is None]
    if not fits or (0 in part.shape and not empty) or any(most is not None and size > most for size in free):
        raise ValueError(f"{name} is {list(part.shape)}, expected {[size or 'any' for size in shape]}")
    _check_finite(name, (part,))


def _check_finite(name: str, parts: Iterable[Tensor]) -> None:
    if not all(bool(part.isfinite().all()) for part in parts):
        raise ValueError(f"{name} has values that are not finite")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
