"""What a stage shows of its present state: videos of fixed prompts and seeds.

Letters: B clips, F latent frames, C channels, h w latent rows and columns, T pixel frames, H W.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from causvid.data.renders import held_out_prompts
from causvid.engine.rollout import rollout
from causvid.media import VideoWriter, contact_sheet, to_bytes
from causvid.models.autoencoder import Autoencoder, AutoencoderState
from causvid.models.text import TextEncoder
from causvid.models.transformer import Transformer
from causvid.nn.chunks import chunk_layout
from causvid.preset import Preset
from causvid.seeding import step_generator
from causvid.train.objective import autocast
from causvid.train.roles import Roles, embed_captions
from causvid.train.run import Run
from causvid.train.shapes import latent_size, student_sigmas

SAMPLES = 12
"""Prompts that samples are made for."""
COLUMNS = 4
SCALE = 2


def write_samples(
    pixels: Iterable[Tensor], captions: Sequence[str], folder: Path, *, fps: float, stills: int = 5
) -> None:
    """Write clips, uint8 `[T, H, W, 3]`, as `samples.png`, each over its caption, and as `samples.mp4`.

    The video has whole rows of four only. It is left out for single frames and where PyAV is not installed.
    """
    clips = [clip.numpy() for clip in pixels]
    sheet = contact_sheet(clips, captions, columns=2, stills=min(stills, len(clips[0])), scale=SCALE)
    sheet.save(folder / "samples.png")
    if len(clips[0]) == 1 or find_spec("av") is None:
        return
    columns = min(COLUMNS, len(clips))
    rows = len(clips) // columns
    height, width = rows * clips[0].shape[1], columns * clips[0].shape[2]
    with VideoWriter(folder / "samples.mp4", fps=fps, height=height, width=width, scale=SCALE) as writer:
        for frame in zip(*clips[: rows * columns], strict=True):  # one at a time: a whole video is a second copy
            grid = (np.concatenate(frame[row * columns : (row + 1) * columns], axis=1) for row in range(rows))
            writer.write(np.concatenate(list(grid))[None])


def decoded(autoencoder: Autoencoder, latents: Tensor) -> Tensor:
    """Decode latents `[B, F, C, h, w]` to uint8 `[B, T, H, W, 3]` on the CPU, a latent frame at a time."""
    state: AutoencoderState | None = None
    pieces = []
    for latent in latents.split(1, dim=1):
        pixels, state = autoencoder.decode_chunk(latent, state)
        pieces.append(to_bytes(pixels))
    return torch.cat(pieces, dim=1)


def write_decoded(
    autoencoder: Autoencoder, latents: Sequence[Tensor], captions: Sequence[str], folder: Path, preset: Preset, run: Run
) -> None:
    """Decode batches of latents and write the samples, in the main process."""
    if run.ranks.is_main:
        clips = [clip for part in latents for clip in decoded(autoencoder, part)]
        write_samples(clips, captions, folder, fps=preset.generation.fps)


def sample_prompts(preset: Preset, captions: Sequence[str]) -> list[str]:
    """Return the prompts that samples are made for: ones the world never shows in training, or else the data's."""
    return list(captions[:SAMPLES]) if preset.world is None else held_out_prompts(preset, SAMPLES)


def student_sampler(
    roles: Roles,
    text: TextEncoder,
    student: Callable[[], AbstractContextManager[Transformer]],
    prompts: list[str],
    *,
    batch: int,
) -> Callable[[Path, int], None]:
    """Return a function that rolls the present student out to twice a training clip's length and writes the videos.

    student: yields the present one; where it is sharded, all processes must sample. batch: how many are made at a time.
    """
    preset, run, g = roles.preset, roles.run, roles.preset.generation
    embedding = embed_captions(text, prompts, run.device)  # now, so that the encoder need not stay in memory
    autoencoder = roles.decoder()
    layout = chunk_layout(g.first + 2 * (g.clip_frames - g.first), g.first, g.chunk)
    channels, height, width = latent_size(preset)
    window = min(g.window, sum(layout))  # no more room than a video takes

    @torch.no_grad()
    def sample(folder: Path, done: int) -> None:
        latents, generator = [], step_generator(run.seed, "samples", 0)
        with student() as model, autocast(run.device):
            for part in embedding.split(batch):
                chunks = rollout(
                    model,
                    model.encode_text(part),
                    model.new_cache(batch=len(part), height=height, width=width, window=window, sink=g.sink),
                    chunks=layout,
                    shape=(len(part), channels, height, width),
                    sigmas=student_sigmas(preset),
                    generator=generator,
                )
                latents.append(torch.cat(list(chunks), dim=1))
        write_decoded(autoencoder, latents, prompts, folder, preset, run)

    return sample
