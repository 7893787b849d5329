"""How near a model's videos are to the clips of a prepared set.

Letters: N clips, F latent frames, C channels, h w latent rows and columns.
"""

import torch
from torch import Tensor

from causvid.data.video_set import VideoSet
from causvid.engine.rollout import rollout
from causvid.flow import warped_steps
from causvid.loading.bundle import Bundle
from causvid.nn.chunks import chunk_layout
from causvid.seeding import step_generator

BATCH = 4


@torch.inference_mode()
def domain_distance(bundle: Bundle, data: VideoSet, *, clips: int, seed: int, device: torch.device) -> float:
    """Return the Fréchet distance between clips of a set and the student's videos under the same captions.

    Both are compared as latents, by the mean, the spread and the change from frame to frame of every channel; over
    clips, these are taken as Gaussians without correlations, whose squared distance is that of the means and of the
    spreads (2.1 in 1706.08500, with diagonal covariances). In units of latents; 0 is the same.
    """
    g, student = bundle.generation, bundle.transformer
    layout = chunk_layout(g.clip_frames, g.first, g.chunk)
    real, made = [], []
    for n, first in enumerate(range(0, clips, BATCH)):
        generator = step_generator(seed, "domain", n, device)
        batch = data.batch(min(BATCH, clips - first), frames=g.clip_frames, generator=generator)
        prompts = [data.captions[place] for place in batch.captions.tolist()]
        count, _, _, height, width = batch.latents.shape
        cache = student.new_cache(batch=count, height=height, width=width, window=g.window, sink=g.sink)
        chunks = rollout(
            student,
            student.encode_text(bundle.text_encoder.embed(prompts, device)),
            cache,
            chunks=layout,
            shape=(count, *batch.latents.shape[2:]),
            sigmas=warped_steps(g.timesteps, g.shift),
            generator=generator,
        )
        made.append(features(torch.cat(list(chunks), dim=1)))
        real.append(features(batch.latents))
    return frechet(torch.cat(real), torch.cat(made))


def features(latents: Tensor) -> Tensor:
    """Describe clips `[N, F, C, h, w]` by each channel's mean, spread and change: `[N, 3 C]`."""
    channels = latents.float().transpose(1, 2).flatten(3)
    change = channels.diff(dim=2).abs().mean(dim=(2, 3))
    return torch.cat((channels.mean(dim=(2, 3)), channels.flatten(2).std(dim=2), change), dim=1)


def frechet(a: Tensor, b: Tensor) -> float:
    """Return the Fréchet distance of two samples `[N, D]`, taken as Gaussians without correlations."""
    means = (a.mean(dim=0) - b.mean(dim=0)).square().sum()
    spreads = (a.std(dim=0) - b.std(dim=0)).square().sum()
    return float((means + spreads).sqrt())
