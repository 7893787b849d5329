"""Stages `autoencoder` and `decoder`: rendered clips to latents and back, and then from what the teacher generates.

A generated latent differs from an encoded one in detail that changes from one latent frame to the next, and a decoder
that never saw such latents shows it as a flicker. In stage `decoder` it sees clips whose latents were noised and
denoised by the teacher, and is asked for the clip itself. The encoder stays, so latents and transformers do.
"""

from pathlib import Path

import torch
from torch import Tensor

from causvid.config import AutoencoderConfig
from causvid.data.renders import captions_of, clip_batches, render_batch
from causvid.engine.solver import guided_velocity, solve
from causvid.flow import add_noise, randn_like
from causvid.media import to_bytes
from causvid.models.autoencoder_loss import autoencoder_loss, reconstruction_loss
from causvid.preset import Preset
from causvid.recipe import required
from causvid.seeding import step_generator
from causvid.train.loop import Stage
from causvid.train.objective import Metrics, Micro, Objective, autocast
from causvid.train.roles import Roles, channels_last
from causvid.train.run import Run, save_weights
from causvid.train.samples import write_samples
from causvid.train.shapes import teacher_visibility

SHORTCUT_CLIPS = 256


def crop(pixels: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Cut a square out of every clip `[B, T, 3, H, W]`, each at its own place; side 0 keeps whole frames.

    Raises:
        ValueError: if a frame is smaller than the square.
    """
    if not side:
        return pixels
    height, width = pixels.shape[3:]
    if side > min(height, width):
        raise ValueError(f"crop={side} does not fit into a frame of {height} x {width}")
    places = torch.rand(len(pixels), 2, generator=generator, device=generator.device).tolist()
    corners = [(int(y * (height - side + 1)), int(x * (width - side + 1))) for y, x in places]
    return torch.stack([c[..., y : y + side, x : x + side] for c, (y, x) in zip(pixels, corners, strict=True)])


def crop_both(
    drawn: Tensor, pixels: Tensor, side: int, sizes: AutoencoderConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Cut the same square of `side` pixels out of clips `[B, T, 3, H, W]`, and out of them as they were drawn.

    Raises:
        ValueError: unless the square is whole patches and fits.
    """
    if not side:
        return drawn, pixels
    edge = sizes.spatial_factor
    rows, columns = (length // edge for length in pixels.shape[3:])
    cells = side // edge
    if side % edge or cells > min(rows, columns):
        raise ValueError(f"crop={side} is not a multiple of {edge} up to {edge * min(rows, columns)}")
    places = torch.rand(2, generator=generator, device=generator.device).tolist()
    y, x = int(places[0] * (rows - cells + 1)), int(places[1] * (columns - cells + 1))

    def square(clips: Tensor, unit: int) -> Tensor:
        return clips[..., y * unit : (y + cells) * unit, x * unit : (x + cells) * unit]

    return square(drawn, sizes.coded_factor), square(pixels, edge)


def autoencoder_stage(preset: Preset, run: Run) -> Stage:
    """Train on rendered clips; the result is the average of the weights."""
    config = required(preset.recipe.autoencoder, "autoencoder")
    draw = clip_batches(preset, config, seed=run.seed, device=run.device)
    model = Roles(preset, run).new_autoencoder()
    if model.config.shortcut and preset.start is None and preset.start_autoencoder is None:
        generator = step_generator(run.seed, "shortcut", 0)
        clips = render_batch(preset, SHORTCUT_CLIPS, frames=config.frames, generator=generator, device=run.device)[0]
        model.initialise_shortcut(clips)
    channels_last(model.to(run.device))

    def loss(micro: Micro) -> tuple[Tensor, Metrics]:
        pixels = crop(draw(micro.noise)[0], config.crop, micro.choices)
        with autocast(run.device):
            return autoencoder_loss(
                model,
                pixels,
                noise=config.noise,
                edges=config.edges,
                motion=config.motion,
                borders=config.borders,
                generator=micro.noise,
            )

    @torch.no_grad()
    def sample(folder: Path, done: int) -> None:
        generator = step_generator(run.seed, "samples", 0)
        pixels, scenes = render_batch(preset, 8, frames=config.frames, generator=generator, device=run.device)
        averaged = objective.averaged(model)
        both = torch.stack((pixels, averaged.decode(averaged.encode(pixels))), dim=1).flatten(0, 1)
        texts = [text for prompt in captions_of(preset, scenes) for text in (prompt, "decoded")]
        write_samples(to_bytes(both), texts, folder, fps=preset.generation.fps, stills=3)

    objective = Objective("autoencoder", loss, {"model": model}, config)
    return Stage(
        "autoencoder",
        config.steps,
        config.lasting(),
        finish=lambda: save_weights(objective.state(model), run.result("autoencoder")),
        objectives=[objective],
        sample=sample,
    )


def decoder_stage(preset: Preset, run: Run) -> Stage:
    """Train the decoder further; the result is the average of the weights."""
    config = required(preset.recipe.decoder, "decoder")
    draw = clip_batches(preset, config, seed=run.seed, device=run.device)
    roles = Roles(preset, run)
    model = roles.autoencoder_to_refine()
    for part in (model.enlarge,) if config.enlarge_only else (model.decoder, model.finish, model.enlarge):
        if part is not None:
            part.requires_grad_()
    text, teacher = roles.text_encoder(), roles.teacher()

    @torch.no_grad()
    def denoised(pixels: Tensor, prompts: list[str], strength: float, generator: torch.Generator) -> Tensor:
        """Encode clips, noise their latents to level `strength`, and denoise them with the teacher."""
        latents = model.encode(pixels)
        level = torch.full(latents.shape[:2], strength, device=latents.device)
        keys = teacher.encode_text(text.embed(prompts, latents.device))
        sigmas = [strength * left / config.euler_steps for left in range(config.euler_steps, -1, -1)]
        noised = add_noise(latents, randn_like(latents, generator), level)
        velocity = guided_velocity(teacher, keys, keys, guidance=1.0, visibility=teacher_visibility(preset))
        return solve(velocity, noised, sigmas=sigmas)[0]

    def loss(micro: Micro) -> tuple[Tensor, Metrics]:
        pixels, scenes = draw(micro.noise)
        strength = config.strength * max(0.01, float(torch.rand((), generator=micro.choices)))
        with autocast(run.device):
            latents = denoised(pixels, captions_of(preset, scenes), strength, micro.noise)
            with torch.set_grad_enabled(not config.enlarge_only):
                drawn = model.draw(latents)
            drawn, pixels = crop_both(drawn, pixels, config.crop, model.config, micro.choices)
            return reconstruction_loss(
                model.magnified(drawn), pixels, edges=config.edges, motion=config.motion, energy=config.energy
            )

    @torch.no_grad()
    def sample(folder: Path, done: int) -> None:
        generator = step_generator(run.seed, "samples", 0, run.device)
        pixels, scenes = render_batch(preset, 6, frames=config.frames, generator=generator, device=run.device)
        prompts = captions_of(preset, scenes)
        latents = denoised(pixels, prompts, config.strength, generator)
        both = torch.stack((pixels, objective.averaged(model).decode(latents)), dim=1).flatten(0, 1)
        texts = [text for prompt in prompts for text in (prompt, "decoded")]
        write_samples(to_bytes(both), texts, folder, fps=preset.generation.fps)

    objective = Objective("decoder", loss, {"model": model}, config)
    return Stage(
        "decoder",
        config.steps,
        config.lasting(),
        finish=lambda: save_weights(objective.state(model), run.result("decoder")),
        objectives=[objective],
        sample=sample,
    )
