"""Stage `autoencoder`: learn to turn rendered clips into latents and back."""

from pathlib import Path

import torch
from torch import Tensor

from causvid.data.renders import captions_of, clip_batches, render_batch
from causvid.models.autoencoder_loss import autoencoder_loss
from causvid.preset import Preset
from causvid.recipe import required
from causvid.seeding import step_generator
from causvid.train.loop import Stage
from causvid.train.objective import Metrics, Micro, make_objective
from causvid.train.optimizer import Ema, autocast
from causvid.train.roles import Roles, channels_last
from causvid.train.run import Run, save_weights
from causvid.train.samples import write_samples

SHORTCUT_CLIPS = 256


def autoencoder_stage(preset: Preset, run: Run) -> Stage:
    """Train on rendered clips; the result is the average of the weights."""
    config = required(preset.recipe.autoencoder, "autoencoder")
    draw = clip_batches(preset, config, seed=run.seed, device=run.device)
    model = Roles(preset, run).new_autoencoder()
    if model.config.shortcut and preset.start is None:
        generator = step_generator(run.seed, "shortcut", 0)
        clips = render_batch(preset, SHORTCUT_CLIPS, frames=config.frames, generator=generator, device=run.device)[0]
        model.initialise_shortcut(clips)
    channels_last(model.to(run.device))
    average = Ema(model, config.ema)

    def loss(micro: Micro) -> tuple[Tensor, Metrics]:
        pixels, _ = draw(micro.noise)
        with autocast(run.device):
            return autoencoder_loss(
                model, pixels, noise=config.noise, edges=config.edges, motion=config.motion, generator=micro.noise
            )

    @torch.no_grad()
    def sample(folder: Path, done: int) -> None:
        generator = step_generator(run.seed, "samples", 0)
        pixels, scenes = render_batch(preset, 8, frames=config.frames, generator=generator, device=run.device)
        again = average.averaged()
        both = torch.stack((pixels, again.decode(again.encode(pixels))), dim=1).flatten(0, 1)
        prompts = captions_of(scenes, [scene.seed for scene in scenes])
        texts = [text for prompt in prompts for text in (prompt, "decoded")]
        write_samples(both, texts, folder, fps=preset.generation.fps, stills=3)

    parameters = [p for p in model.parameters() if p.requires_grad]
    return Stage(
        name="autoencoder",
        steps=config.steps,
        settings=config.lasting(),
        modules={"model": model},
        objectives=[make_objective("autoencoder", loss, parameters, config, averages={"model": average})],
        finish=lambda: save_weights(average.averaged(), run.folder / "autoencoder.safetensors"),
        sample=sample,
    )
