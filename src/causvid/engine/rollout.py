"""Few steps, chunk by chunk, on clean latents: what streams and training have in common.

Letters: B batch, F latent frames, c latent frames of a chunk, C H W a latent frame.

Every denoising pass reads the cached history; one clean pass a chunk commits its keys. Sampling is of the consistency
kind: predict x0, add fresh noise at the next level, predict again (CausVid, 2412.07772, algorithm 1).
"""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from causvid.flow import Noise, add_noise, randn, randn_like, x0_from_velocity
from causvid.models.transformer import TextKeys, Transformer
from causvid.nn.cache import KVCache


def _levels(x: Tensor, sigma: float) -> Tensor:
    return torch.full(x.shape[:2], sigma, device=x.device, dtype=torch.float32)


def predict_x0(model: Transformer, x: Tensor, sigma: float, text: TextKeys, cache: KVCache) -> Tensor:
    """Predict the clean chunk behind `x` `[B, c, C, H, W]` at one noise level, reading the cache."""
    levels = _levels(x, sigma)
    return x0_from_velocity(x, model(x, levels, text, cache=cache), levels)


def denoise_chunk(
    model: Transformer,
    noise: Tensor,
    text: TextKeys,
    cache: KVCache,
    *,
    sigmas: Sequence[float],
    generator: Noise,
    grad_step: int | None = None,
) -> Tensor:
    """Turn `noise` `[B, c, C, H, W]` at level `sigmas[0]` into a clean chunk by few steps; the history is only read.

    With `grad_step` the chunk leaves at that step, the only one that carries gradient (Self Forcing, 2506.08009,
    algorithm 1).
    """
    last = len(sigmas) - 1 if grad_step is None else grad_step
    if not 0 <= last < len(sigmas):
        raise ValueError(f"grad_step={grad_step} is not one of {len(sigmas)} steps")
    x = noise
    for step, sigma in enumerate(sigmas[: last + 1]):
        with torch.set_grad_enabled(torch.is_grad_enabled() and (grad_step is None or step == grad_step)):
            x0 = predict_x0(model, x, sigma, text, cache)
        if step < last:
            x = add_noise(x0, randn_like(x0, generator), _levels(x0, sigmas[step + 1]))
    return x0


@torch.no_grad()
def commit_chunk(model: Transformer, x0: Tensor, text: TextKeys, cache: KVCache) -> None:
    """Store a clean chunk `[B, c, C, H, W]` as history: one pass at sigma 0."""
    model(x0, _levels(x0, 0.0), text, cache=cache, commit=True)


def next_chunk(
    model: Transformer,
    text: TextKeys,
    cache: KVCache,
    *,
    size: int,
    shape: tuple[int, int, int, int],
    sigmas: Sequence[float],
    generator: Noise,
    grad_step: int | None = None,
    source: Tensor | None = None,
) -> Tensor:
    """Make the next chunk, of `size` latent frames; `shape` is (B, C, H, W).

    Noise is drawn on the generator's device. With `source`, clean latents of the same shape, the chunk starts from them
    at level `sigmas[0]` instead of from noise (video-to-video).
    """
    batch, *frame = shape
    noise = randn((batch, size, *frame), generator).to(model.patch_in.weight.device)
    if source is not None:
        noise = add_noise(source, noise, _levels(noise, sigmas[0]))
    return denoise_chunk(model, noise, text, cache, sigmas=sigmas, generator=generator, grad_step=grad_step)


def rollout(
    model: Transformer,
    text: TextKeys,
    cache: KVCache,
    *,
    chunks: Iterable[int],
    shape: tuple[int, int, int, int],
    sigmas: Sequence[float],
    generator: Noise,
    grad_step: int | None = None,
    latest: Tensor | None = None,
) -> Iterator[Tensor]:
    """Yield clean chunks `[B, c, C, H, W]`, one for every size in `chunks`; options as in `next_chunk`.

    `latest`, if given, is the chunk that comes before the first. A chunk is committed when the next one is asked for,
    off the path to itself; a rollout that stops pays no pass it does not need.
    """
    for size in chunks:
        if latest is not None:
            if torch.is_grad_enabled():
                cache.preserve(latest.shape[1])
            commit_chunk(model, latest.detach(), text, cache)
        latest = next_chunk(
            model, text, cache, size=size, shape=shape, sigmas=sigmas, generator=generator, grad_step=grad_step
        )
        yield latest
