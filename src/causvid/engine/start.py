"""A session from a request: what a video starts from, encoded, and how the model generates it.

Letters: F latent frames, C channels, h w a latent frame.
"""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from causvid.config import GenerationConfig
from causvid.engine.history import History
from causvid.engine.latents import load_latents
from causvid.engine.limits import memory, pixel_length, student_sigmas
from causvid.engine.request import LATENTS, GenerationRequest, PromptChange
from causvid.engine.restored import check_state
from causvid.engine.session import Applied, Geometry, Point, Session, SessionState
from causvid.engine.source import Source, encode_end, levels_below, load_image, load_video, open_source, to_pixels
from causvid.engine.step import Engine
from causvid.media.clip import camera
from causvid.models.autoencoder import pixel_frames
from causvid.nn.cache import KVCache
from causvid.nn.chunks import first_chunk


@torch.inference_mode()
def start(engine: Engine, own: GenerationConfig, request: GenerationRequest, *, shape: tuple[int, int, int]) -> Session:
    """Start a session of latent frames `shape`, (C, h, w), with a model whose settings are `own`.

    Raises:
        ValueError, OSError: at once, if a value cannot be used or a file cannot be read.
    """
    device = engine.transformer.patch_in.weight.device
    source = open_video(engine, own, request, shape)
    if source is not None:
        levels_below(request.strength, student_sigmas(own, request.steps, request.sigmas))
    given, history, last = _encode_start(engine, own, request, shape)
    first = own.first
    if given is not None or history is not None:
        first = first_chunk(1 if history is None else history.shape[1], own.first, own.chunk)
    geometry = _geometry(own, request, shape, first)
    embedding = engine.embed(request.prompt)  # before the cache is there: a text encoder may need its room for a moment
    window, sink = geometry.window, geometry.sink
    cache = _new_cache(engine, geometry)
    nothing = torch.empty((1, 0, *shape), device=device)
    point = Point(
        applied=(Applied(0, PromptChange(prompt=request.prompt)),),
        embedding=embedding,
        text=engine.transformer.encode_text(embedding),
        history=History(nothing, 0, window, sink, first, own.chunk),
        seed=request.seed,
        strength=request.strength,
    )
    session = Session(request, geometry, point, cache, torch.Generator().manual_seed(request.seed), source)
    if given is not None:
        session.point = replace(point, given=given)
    if history is not None:
        engine.start_from(session, history, last)
    return session


@torch.inference_mode()
def resume(engine: Engine, own: GenerationConfig, state: SessionState, *, shape: tuple[int, int, int]) -> Session:
    """Return a session that continues from a state, which may come from a file.

    Raises:
        ValueError: if the state is not one that its request leads to with this model; OSError: if its source cannot be
            read.
    """
    first = state.geometry.first
    expected = _geometry(own, state.request, shape, first)
    if state.geometry != expected or not 1 <= first <= max(own.first, own.chunk):
        raise ValueError(f"it has {state.geometry}, expected {expected}")
    source = open_video(engine, own, state.request, shape)
    try:
        cache = _new_cache(engine, expected)
        session = Session(state.request, expected, state.point, cache, torch.Generator(), source)
        check_state(engine, state)
        session.restore(state)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"its tensors do not fit: {str(error).splitlines()[0]}") from None
    return session


def _geometry(own: GenerationConfig, request: GenerationRequest, shape: tuple[int, int, int], first: int) -> Geometry:
    return Geometry(
        first=first,
        chunk=own.chunk,
        shape=shape,
        sigmas=student_sigmas(own, request.steps, request.sigmas),
        **memory(own, request.window, request.sink),
        policy=request.policy,
        length=None if request.seconds is None else pixel_length(own, request.seconds),
        carry=own.carry,
        adapt=request.adapt,
    )


def _new_cache(engine: Engine, geometry: Geometry) -> KVCache:
    _, height, width = geometry.shape
    return engine.transformer.new_cache(
        batch=1,
        height=height,
        width=width,
        window=geometry.window,
        sink=geometry.sink,
        chunk=max(geometry.first, geometry.chunk),
    )


def _pixels(engine: Engine, shape: tuple[int, int, int]) -> tuple[int, int]:
    factor = engine.autoencoder.spatial_factor
    return shape[1] * factor, shape[2] * factor


def open_video(
    engine: Engine, own: GenerationConfig, request: GenerationRequest, shape: tuple[int, int, int]
) -> Source | None:
    """Open the video that a request's chunks start from, if it has one."""
    if request.source is None:
        return None
    height, width = _pixels(engine, shape)
    return open_source(
        request.source,
        engine.autoencoder,
        height=height,
        width=width,
        fps=own.fps,
        fit=request.fit,
        first=own.first,
        chunk=own.chunk,
        device=engine.transformer.patch_in.weight.device,
        live=isinstance(request.source, str | Path) and camera(request.source) is not None,
    )


def _encode_start(
    engine: Engine, own: GenerationConfig, request: GenerationRequest, shape: tuple[int, int, int]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the latents that are the first chunk, those it continues, and the frame that the latter end with."""
    device, size = engine.transformer.patch_in.weight.device, _pixels(engine, shape)
    if request.image is not None:
        frame = load_image(request.image, *size, fit=request.fit)
        return engine.autoencoder.encode(to_pixels([frame], device)), None, None
    after = request.after
    if after is None:
        return None, None, None
    if isinstance(after, str | Path) and Path(after).suffix == LATENTS:
        after, _ = load_latents(Path(after))
    if isinstance(after, Tensor):
        return None, _check(after, shape).to(device), None
    seen = sum(memory(own, request.window, request.sink).values())
    whole = range(own.first, own.clip_frames + 1, own.chunk)
    most = next((size for size in whole if size >= seen), whole[-1])
    frames = load_video(after, *size, fps=own.fps, fit=request.fit, last=pixel_frames(most) / own.fps)
    history, last = encode_end(engine.autoencoder, frames, first=own.first, chunk=own.chunk, most=most, device=device)
    return None, history, last


def _check(latents: Tensor, shape: tuple[int, int, int]) -> Tensor:
    if latents.ndim != 5 or latents.shape[0] != 1 or tuple(latents.shape[2:]) != shape or not latents.shape[1]:
        expected = ", ".join(map(str, shape))
        raise ValueError(f"after: latents are {list(latents.shape)}, expected [1, F, {expected}]")
    return latents
