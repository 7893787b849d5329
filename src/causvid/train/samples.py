"""What a stage shows of its present state: videos of fixed prompts and seeds.

Letters: B clips, F latent frames, C channels, h w latent rows and columns, T pixel frames, H W.
"""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from causvid.data.renders import held_out_prompts
from causvid.engine.rollout import rollout
from causvid.media import VideoWriter, contact_sheet, to_bytes
from causvid.models.text import TextEncoder
from causvid.models.transformer import Transformer
from causvid.nn.chunks import chunk_layout
from causvid.preset import Preset
from causvid.seeding import step_generator
from causvid.train.roles import Roles, embed_captions, latent_size, student_sigmas

SAMPLES = 12
"""Prompts that samples are made for."""
COLUMNS = 4
SCALE = 2


def write_samples(pixels: Tensor, captions: Sequence[str], folder: Path, *, fps: float, stills: int = 5) -> None:
    """Write clips `[B, T, 3, H, W]` in [0, 1] as `samples.png`, each over its caption, and as `samples.mp4`.

    The video has whole rows of four only. It is left out for single frames and where PyAV is not installed.
    """
    clips = to_bytes(pixels).numpy()
    sheet = contact_sheet(list(clips), captions, columns=2, stills=min(stills, len(clips[0])), scale=SCALE)
    sheet.save(folder / "samples.png")
    if len(clips[0]) == 1 or find_spec("av") is None:
        return
    columns = min(COLUMNS, len(clips))
    whole_rows = clips[: len(clips) - len(clips) % columns]
    count, length, height, width, channels = whole_rows.shape
    grid = whole_rows.reshape(count // columns, columns, length, height, width, channels)
    tiles = grid.transpose(2, 0, 3, 1, 4, 5).reshape(length, count // columns * height, columns * width, channels)
    _, height, width, _ = tiles.shape
    with VideoWriter(folder / "samples.mp4", fps=fps, height=height, width=width, scale=SCALE) as writer:
        writer.write(tiles)


def sample_prompts(preset: Preset, captions: Sequence[str]) -> list[str]:
    """Return the prompts that samples are made for: ones the world never shows in training, or else the data's."""
    return list(captions[:SAMPLES]) if preset.world is None else held_out_prompts(preset, SAMPLES)


def student_sampler(
    roles: Roles, text: TextEncoder, student: Callable[[], Transformer], prompts: list[str]
) -> Callable[[Path, int], None]:
    """Return a function that rolls the present student out to twice a training clip's length and writes the videos."""
    preset, run, g = roles.preset, roles.run, roles.preset.generation
    embedding = embed_captions(text, prompts, run.device)  # now, so that the encoder need not stay in memory
    autoencoder = roles.autoencoder()
    layout = chunk_layout(g.first + 2 * (g.clip_frames - g.first), g.first, g.chunk)
    channels, height, width = latent_size(preset)

    @torch.no_grad()
    def sample(folder: Path, done: int) -> None:
        model = student()
        chunks = rollout(
            model,
            model.encode_text(embedding),
            model.new_cache(batch=len(prompts), height=height, width=width, window=g.window, sink=g.sink),
            chunks=layout,
            shape=(len(prompts), channels, height, width),
            sigmas=student_sigmas(preset),
            generator=step_generator(run.seed, "samples", 0),
        )
        write_samples(autoencoder.decode(torch.cat(list(chunks), dim=1)), prompts, folder, fps=g.fps)

    return sample
