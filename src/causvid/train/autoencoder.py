"""Stage `autoencoder`: learn to turn rendered clips into latents and back."""

from pathlib import Path

import torch
from torch import Tensor

from causvid.models.autoencoder_loss import autoencoder_loss
from causvid.models.tiny_autoencoder import TinyAutoencoder
from causvid.preset import Preset
from causvid.seeding import lend_seed
from causvid.train.artifacts import save_weights
from causvid.train.loop import Run, Stage, step_generator
from causvid.train.optimizer import Ema, adamw, autocast, learning_rate, update
from causvid.train.samples import write_samples
from causvid.train.start import AUTOENCODER, load_start
from causvid.train.world import captions, clip_batches, render_batch

SHORTCUT_CLIPS = 256


def channels_last(model: TinyAutoencoder) -> TinyAutoencoder:
    """Store the weights of convolutions with channels innermost, which is how every backend runs them fastest."""
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def cut(pixels: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Cut a square out of every clip `[B, T, 3, H, W]`, each at a place of its own; side 0 takes whole frames.

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


def autoencoder_stage(preset: Preset, run: Run) -> Stage:
    """Train on freshly rendered clips; the result is the average of the weights."""
    config = preset.recipe.autoencoder
    sizes = preset.autoencoder_sizes
    with lend_seed(step_generator(run.seed, "autoencoder weights", 0)):
        model = TinyAutoencoder(sizes)
    begun = load_start(run, {AUTOENCODER: model})
    if sizes.shortcut and not begun:
        generator = step_generator(run.seed, "shortcut", 0)
        clips = render_batch(preset, SHORTCUT_CLIPS, frames=config.frames, generator=generator, device=run.device)[0]
        model.initialise_shortcut(clips)
    channels_last(model.to(run.device))
    draw = clip_batches(preset, run, batch=config.batch, frames=config.frames, pool=config.pool)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = adamw(parameters, config)
    average = Ema(model, config.ema)

    def step(n: int) -> dict[str, Tensor]:
        generator = step_generator(run.seed, "autoencoder", n, run.device)
        pixels = cut(draw(generator)[0], config.crop, generator)
        with autocast(run):
            loss, metrics = autoencoder_loss(
                model,
                pixels,
                noise=config.noise,
                edges=config.edges,
                motion=config.motion,
                borders=config.borders,
                generator=generator,
            )
        norm = update(optimizer, loss, parameters, rate=learning_rate(config, n), clip=config.clip)
        average.update(model)
        return {"loss": loss.detach(), **metrics, "grad_norm": norm}

    def averaged() -> TinyAutoencoder:
        return average.copy_to(TinyAutoencoder(sizes).to(run.device))

    @torch.no_grad()
    def sample(folder: Path, done: int) -> None:
        generator = step_generator(run.seed, "samples", 0)
        pixels, scenes = render_batch(preset, 8, frames=config.frames, generator=generator, device=run.device)
        again = averaged()
        both = torch.stack((pixels, again.decode(again.encode(pixels))), dim=1).flatten(0, 1)
        texts = [text for scene in scenes for text in (captions(preset, [scene], [scene.seed])[0], "decoded")]
        write_samples(both, texts, folder, fps=preset.generation.fps, stills=3)

    return Stage(
        name="autoencoder",
        steps=config.steps,
        settings=config.lasting(),
        state={"model": model, "optimizer": optimizer, "average": average},
        step=step,
        finish=lambda: save_weights(averaged(), run.folder / "autoencoder.safetensors"),
        sample=sample,
    )
