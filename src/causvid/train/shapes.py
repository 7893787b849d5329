"""What a preset says of a pass of training: sizes, chunks, noise levels, and what teacher and student see."""

from causvid.flow import warped_steps
from causvid.nn.chunks import chunk_layout
from causvid.nn.visibility import FULL, Visibility
from causvid.preset import Preset

WAN_SPATIAL_FACTOR = 8


def student_visibility(preset: Preset) -> Visibility:
    """Return what the student sees: chunk-causal, with the preset's window and sink."""
    g = preset.generation
    return Visibility(first=g.first, chunk=g.chunk, window=g.window, sink=g.sink)


def teacher_visibility(preset: Preset) -> Visibility:
    """Return what teacher and critic see: the whole clip, or what the student sees if the teacher is causal.

    A causal teacher is asked for all chunks at one level, in one masked pass: a chunk's history is as noisy as it is.
    """
    teacher = preset.recipe.teacher
    return student_visibility(preset) if teacher is not None and teacher.causal else FULL


def student_layout(preset: Preset) -> tuple[int, ...]:
    """Return the chunk sizes of a training clip."""
    g = preset.generation
    return chunk_layout(g.clip_frames, g.first, g.chunk)


def student_sigmas(preset: Preset) -> tuple[float, ...]:
    """Return the student's few noise levels."""
    return warped_steps(preset.generation.timesteps, preset.generation.shift)


def latent_size(preset: Preset) -> tuple[int, int, int]:
    """Return [C, h, w] of a preset's latents."""
    factor = WAN_SPATIAL_FACTOR if preset.autoencoder is None else preset.autoencoder.spatial_factor
    return (preset.transformer.in_channels, preset.generation.height // factor, preset.generation.width // factor)


def tokens_of_frame(preset: Preset) -> int:
    """Return the tokens of a latent frame."""
    _, height, width = latent_size(preset)
    return (height // preset.transformer.patch) * (width // preset.transformer.patch)
