"""Stage `decoder`: the decoder learns to show what the teacher generates, not only what the encoder does.

A generated latent differs from an encoded one in detail that changes from one latent frame to the next, and a decoder
that never saw such latents shows it as a flicker. Here it sees clips whose latents were noised and denoised by the
teacher, and is asked for the clip itself. The encoder stays, so latents and transformers do.
"""

from pathlib import Path

import torch
from torch import Tensor

from causvid.data.renders import captions_of, clip_batches, render_batch
from causvid.engine.solver import guided_velocity, solve
from causvid.flow import add_noise, randn_like
from causvid.models.autoencoder_loss import reconstruction_loss
from causvid.preset import Preset
from causvid.recipe import required
from causvid.seeding import step_generator
from causvid.train.loop import Stage
from causvid.train.objective import Metrics, Micro, make_objective
from causvid.train.optimizer import Ema, autocast
from causvid.train.roles import Roles, teacher_visibility
from causvid.train.run import Run, save_weights
from causvid.train.samples import write_samples


def decoder_stage(preset: Preset, run: Run) -> Stage:
    """Train the decoder further; the result is the average of the weights."""
    config = required(preset.recipe.decoder, "decoder")
    draw = clip_batches(preset, config, seed=run.seed, device=run.device)
    roles = Roles(preset, run)
    model, before = roles.tiny_autoencoder(), roles.tiny_autoencoder()
    parameters = list(model.decoder.requires_grad_().parameters())
    text, teacher = roles.text_encoder(), roles.teacher()
    average = Ema(model, config.ema)

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
        prompts = captions_of(scenes, [scene.seed for scene in scenes])
        strength = config.strength * max(0.01, float(torch.rand((), generator=micro.choices)))
        with autocast(run.device):
            latents = denoised(pixels, prompts, strength, micro.noise)
            return reconstruction_loss(
                model.reconstruct(latents), pixels, edges=config.edges, motion=config.motion, energy=config.energy
            )

    @torch.no_grad()
    def sample(folder: Path, done: int) -> None:
        generator = step_generator(run.seed, "samples", 0, run.device)
        pixels, scenes = render_batch(preset, 6, frames=config.frames, generator=generator, device=run.device)
        prompts = captions_of(scenes, [scene.seed for scene in scenes])
        latents = denoised(pixels, prompts, config.strength, generator)
        both = torch.stack((before.decode(latents), average.averaged().decode(latents)), dim=1).flatten(0, 1)
        texts = [text for prompt in prompts for text in (f"before: {prompt}", f"now: {prompt}")]
        write_samples(both, texts, folder, fps=preset.generation.fps)

    return Stage(
        name="decoder",
        steps=config.steps,
        settings=config.lasting(),
        modules={"model": model},
        objectives=[make_objective("decoder", loss, parameters, config, averages={"model": average})],
        finish=lambda: save_weights(average.averaged(), run.folder / "decoder.safetensors"),
        sample=sample,
    )
