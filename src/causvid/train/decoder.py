"""Stage `decoder`: the decoder learns to show what the teacher makes, not only what the encoder does.

A generated latent differs from an encoded one in detail that changes from one latent frame to the next, and a decoder
that never saw such latents shows it as a flicker. Here it sees clips whose latents were noised and brought back by the
teacher, and is asked for the clip itself. The encoder stays, so latents and transformers do.
"""

from pathlib import Path

import torch
from torch import Tensor

from causvid.flow import add_noise, randn_like
from causvid.generate.solver import guided_velocity, solve
from causvid.models.autoencoder_loss import reconstruction_loss
from causvid.models.tiny_autoencoder import TinyAutoencoder
from causvid.preset import Preset
from causvid.train.artifacts import save_weights
from causvid.train.data import load_autoencoder
from causvid.train.loop import Run, Stage, step_generator
from causvid.train.optimizer import Ema, adamw, autocast, learning_rate, update
from causvid.train.samples import write_samples
from causvid.train.teacher import load_text_encoder, new_transformer, teacher_visibility
from causvid.train.world import captions, clip_batches, render_batch


def decoder_stage(preset: Preset, run: Run) -> Stage:
    """Train the decoder on; the result is the average of the weights."""
    config = preset.recipe.decoder
    if config is None:
        raise ValueError(f"preset={preset.name} has no settings for stage decoder: add [train.decoder]")
    model = load_autoencoder(preset, run, trained_by="autoencoder")
    parts = [model.decoder] if model.finish is None else [model.decoder, model.finish]
    parameters = [p for part in parts for p in part.requires_grad_().parameters()]
    text = load_text_encoder(preset, run)
    teacher = new_transformer(preset, run, weights="teacher.safetensors").eval().requires_grad_(False)
    optimizer = adamw(parameters, config)
    average = Ema(model, config.ema)
    draw = clip_batches(preset, run, batch=config.batch, frames=config.frames, pool=config.pool)

    @torch.no_grad()
    def brought_back(pixels: Tensor, prompts: list[str], strength: float, generator: torch.Generator) -> Tensor:
        """Encode clips, noise their latents to level `strength`, and let the teacher bring them back."""
        latents = model.encode(pixels)
        level = torch.full(latents.shape[:2], strength, device=latents.device)
        keys = teacher.encode_text(text.embed(prompts, latents.device))
        sigmas = [strength * left / config.euler_steps for left in range(config.euler_steps, -1, -1)]
        noised = add_noise(latents, randn_like(latents, generator), level)
        velocity = guided_velocity(teacher, keys, keys, guidance=1.0, visibility=teacher_visibility(preset))
        return solve(velocity, noised, sigmas=sigmas)[0]

    def step(n: int) -> dict[str, Tensor]:
        generator = step_generator(run.seed, "decoder", n, run.device)
        pixels, scenes = draw(generator)
        strength = config.strength * float(torch.rand((), generator=generator, device=run.device).clamp_min(0.01))
        with autocast(run):
            latents = brought_back(pixels, captions(preset, scenes, [s.seed for s in scenes]), strength, generator)
            loss, metrics = reconstruction_loss(
                model.reconstruct(latents), pixels, edges=config.edges, motion=config.motion, energy=config.energy
            )
        norm = update(optimizer, loss, parameters, rate=learning_rate(config, n), clip=config.clip)
        average.update(model)
        return {"loss": loss.detach(), **metrics, "grad_norm": norm}

    def averaged() -> TinyAutoencoder:
        return average.copy_to(TinyAutoencoder(preset.autoencoder_sizes).to(run.device))

    @torch.no_grad()
    def sample(folder: Path, done: int) -> None:
        generator = step_generator(run.seed, "samples", 0, run.device)
        pixels, scenes = render_batch(preset, 6, frames=config.frames, generator=generator, device=run.device)
        prompts = captions(preset, scenes, [s.seed for s in scenes])
        latents = brought_back(pixels, prompts, config.strength, generator)
        before = load_autoencoder(preset, run, trained_by="autoencoder")
        both = torch.stack((before.decode(latents), averaged().decode(latents)), dim=1).flatten(0, 1)
        texts = [text for prompt in prompts for text in (f"before: {prompt}", f"now: {prompt}")]
        write_samples(both, texts, folder, fps=preset.generation.fps)

    return Stage(
        name="decoder",
        steps=config.steps,
        settings=config.lasting(),
        state={"model": model, "optimizer": optimizer, "average": average},
        step=step,
        finish=lambda: save_weights(averaged(), run.folder / "decoder.safetensors"),
        sample=sample,
    )
