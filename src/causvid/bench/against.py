"""A chunk by the cache beside a chunk by recomputing its history, in diffusers' transformer with the same weights."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from causvid.bench.subject import PROMPT, Subject
from causvid.bench.timing import alternate
from causvid.engine.rollout import commit_chunk, predict_x0
from causvid.loading.names import to_foreign
from causvid.loading.wan_config import to_diffusers_config
from causvid.models.transformer import Transformer


@dataclass(frozen=True)
class Comparison:
    """Seconds a chunk, and the largest error of one pass over the same frames, relative to the largest value."""

    ours: float
    theirs: float
    error: float


def in_diffusers(model: Transformer) -> Any:
    """Return diffusers' transformer with the weights of ours.

    Raises:
        ValueError: if diffusers is not installed.
    """
    try:
        from diffusers import WanTransformer3DModel
    except ImportError:
        raise ValueError("--against diffusers needs it: pip install diffusers") from None
    config = {name: value for name, value in to_diffusers_config(model.config).items() if not name.startswith("_")}
    theirs: Any = WanTransformer3DModel(**config)
    theirs = theirs.to(model.patch_in.weight.device).eval().requires_grad_(False)
    theirs.load_state_dict(to_foreign(model.state_dict(), model.config, "diffusers"))
    return theirs


def compare(subject: Subject, *, seconds: float) -> Comparison:
    """Time the passes of a chunk: ours read the cache, theirs see history and chunk anew at every step."""
    model, text, cache = subject.model, subject.text, subject.cache
    assert text is not None
    peer = in_diffusers(model)
    sigmas, latents = subject.pipeline.sigmas, subject.latents
    scratch = cache.like()
    scratch.restore(cache.state())
    embedding = subject.pipeline.bundle.text_encoder.embed([PROMPT], latents.device)
    frames = cache.sink + cache.window + latents.shape[1]
    clip = torch.cat([latents] * (-(-frames // latents.shape[1])), dim=1)[:, :frames]

    def velocity(x: Tensor, sigma: float) -> Tensor:
        level = torch.full((len(x),), 1000 * sigma, device=x.device)
        found: Tensor = peer(x.transpose(1, 2), level, embedding, return_dict=False)[0]
        return found.transpose(1, 2)

    def ours() -> None:
        with torch.inference_mode():
            for sigma in sigmas:
                predict_x0(model, latents, sigma, text, cache)
            commit_chunk(model, latents, text, scratch)

    def theirs() -> None:
        with torch.inference_mode():
            for sigma in sigmas:
                velocity(clip, sigma)

    with torch.inference_mode():
        levels = torch.full(clip.shape[:2], sigmas[-1], device=clip.device)
        own, other = model(clip, levels, text), velocity(clip, sigmas[-1])
        error = float((own - other).abs().max() / other.abs().max())
    took = alternate({"ours": ours, "theirs": theirs}, seconds=seconds)
    return Comparison(took["ours"], took["theirs"], error)
