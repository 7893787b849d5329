"""Stage `teacher`: flow matching with full attention, or the student's, jointly with the small text encoder."""

from pathlib import Path

import torch
from torch import Tensor

from causvid.config import Phase
from causvid.flow import add_noise, flow_matching_loss, randn_like, sample_logit_normal, schedule
from causvid.engine.solver import guided_velocity, solve
from causvid.models.text import TextEncoder
from causvid.models.transformer import Transformer
from causvid.nn.visibility import FULL, Visibility
from causvid.preset import Preset
from causvid.train.artifacts import load_weights, save_weights
from causvid.data.clips import ClipStore, held_out_prompts, load_autoencoder, new_text_encoder
from causvid.train.loop import Run, Stage, step_generator
from causvid.train.optimizer import Ema, adamw, autocast, learning_rate, update
from causvid.train.samples import SAMPLES, write_samples
from causvid.train.start import TEACHER, TEXT, load_start

EMBEDDED_TOGETHER = 512


def new_transformer(preset: Preset, run: Run, *, weights: str | None = None, made_by: str = "teacher") -> Transformer:
    """Make a transformer on the run's device: fresh, or from a weights file of the run's folder."""
    model = Transformer(preset.transformer)
    if weights is None:
        model.initialise(step_generator(run.seed, "transformer", 0))
    else:
        load_weights(model, run.folder / weights, made_by=made_by)
    model.to(run.device)
    if run.device.type == "cuda":
        compile_blocks(model)
    return model


def load_text_encoder(preset: Preset, run: Run) -> TextEncoder:
    """Return the text encoder that the teacher was trained with, frozen."""
    encoder = new_text_encoder(preset, run)
    load_weights(encoder, run.folder / "text_encoder.safetensors", made_by="teacher")
    return encoder.eval().requires_grad_(False)


def compile_blocks(model: Transformer) -> None:
    """Compile a transformer's blocks in place: one graph for all of them and every shape of a batch.

    A pass with a cache stays as it is.
    """
    for block in model.blocks:
        block.compile(dynamic=False)


def student_visibility(preset: Preset) -> Visibility:
    """Return what the student sees: chunk-causal, with the preset's window and sink."""
    g = preset.generation
    return Visibility(first=g.first, chunk=g.chunk, window=g.window, sink=g.sink)


def teacher_visibility(preset: Preset) -> Visibility:
    """Return what teacher and critic see: the whole clip, or what the student sees if the teacher is causal.

    A causal teacher is trained with a noise level for each chunk, but asked for all chunks at one level, in one masked
    pass: the cheap form, in which a chunk's past is as noisy as the chunk.
    """
    return student_visibility(preset) if preset.recipe.teacher.causal else FULL


def phase_at(phases: tuple[Phase, ...], progress: float) -> Phase:
    """Return the curriculum's phase at `progress` in [0, 1)."""
    return next((phase for phase in phases if progress < phase.until), phases[-1])


def given_frames(clips: Tensor, *, share: float, first: int, generator: torch.Generator) -> Tensor:
    """Draw which frames of `clips` `[B, F, ...]` are given: the first chunk's, in a share of them; bool `[B, F]`.

    Nothing is drawn for a share of 0. Clips that are no longer than the first chunk are never given.
    """
    batch, frames = clips.shape[:2]
    given = torch.zeros(batch, frames, dtype=torch.bool, device=clips.device)
    if share > 0 and frames > first:
        drawn = torch.rand((batch, 1), generator=generator, device=generator.device) < share
        given[:, :first] = drawn.to(clips.device)
    return given


def token_mask(ids: Tensor) -> Tensor:
    """Return which ids `[B, M]` are real tokens; 0 is padding."""
    return ids != 0


@torch.no_grad()
def embed_captions(text: TextEncoder, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Embed every distinct caption of a store once.

    Takes ids `[..., M]` on the encoder's device. Returns the embeddings, fp32 `[U, M, D]`, and for each caption the row
    that holds its own, int64 `[...]`.
    """
    distinct, rows = torch.unique(ids.flatten(0, -2), dim=0, return_inverse=True)
    embeddings = torch.empty(*distinct.shape, text.dim, device=ids.device)
    for part, place in zip(distinct.split(EMBEDDED_TOGETHER), embeddings.split(EMBEDDED_TOGETHER), strict=True):
        place.copy_(text(part.long(), token_mask(part)))
    return embeddings, rows.reshape(ids.shape[:-1])


def teacher_stage(preset: Preset, run: Run) -> Stage:
    """Train teacher and text encoder; the result is the average of their weights."""
    config = preset.recipe.teacher
    store = ClipStore.open(preset, run)
    autoencoder = load_autoencoder(preset, run)
    model, text = new_transformer(preset, run), new_text_encoder(preset, run)
    load_start(run, {TEACHER: model, TEXT: text})
    parameters = [*model.parameters(), *text.parameters()]
    optimizer = adamw(parameters, config)
    averages = {"model": Ema(model, config.ema), "text": Ema(text, config.ema)}
    null_ids = text.tokens([""])[0][0].to(run.device)
    visibility = teacher_visibility(preset)
    together = {
        frames: torch.tensor([span.stop - span.start for span in visibility.spans(frames)], device=run.device)
        for frames in {phase.frames for phase in config.phases}
    }  # frames that share a noise level, by the length of a clip

    def step(n: int) -> dict[str, Tensor]:
        generator = step_generator(run.seed, "teacher", n, run.device)
        phase = phase_at(config.phases, n / config.steps)
        x0, ids = store.draw(phase.batch, frames=phase.frames, generator=generator, device=run.device)
        dropped = torch.rand(len(ids), generator=generator, device=run.device) < config.drop_prompt
        ids = torch.where(dropped[:, None], null_ids, ids)
        sizes = together[phase.frames]
        sigma = sample_logit_normal(
            (len(ids), len(sizes)), shift=preset.generation.shift, generator=generator, device=run.device
        )
        sigma = sigma.repeat_interleave(sizes, dim=1, output_size=phase.frames)
        given = given_frames(x0, share=config.image, first=preset.generation.first, generator=generator)
        sigma = sigma.masked_fill(given, 0.0)
        noise = randn_like(x0, generator)
        with autocast(run):
            keys = model.encode_text(text(ids, token_mask(ids)))
            velocity = model(add_noise(x0, noise, sigma), sigma, keys, visibility=visibility)
        loss = flow_matching_loss(velocity, x0, noise, sigma)
        norm = update(optimizer, loss, parameters, rate=learning_rate(config, n), clip=config.clip)
        averages["model"].update(model)
        averages["text"].update(text)
        return {"loss": loss.detach(), "frames": torch.tensor(phase.frames), "grad_norm": norm}

    def averaged() -> tuple[Transformer, TextEncoder]:
        teacher, encoder = Transformer(preset.transformer).to(run.device), new_text_encoder(preset, run)
        return averages["model"].copy_to(teacher), averages["text"].copy_to(encoder)

    @torch.no_grad()
    def sample(folder: Path, done: int) -> None:
        teacher, encoder = averaged()
        frames = phase_at(config.phases, (done - 1) / config.steps).frames
        prompts = held_out_prompts(preset, SAMPLES)
        latent = sample_teacher(preset, run, teacher, encoder, prompts, frames=frames)
        write_samples(autoencoder.decode(latent), prompts, folder, fps=preset.generation.fps)

    def finish() -> None:
        teacher, encoder = averaged()
        save_weights(teacher, run.folder / "teacher.safetensors")
        save_weights(encoder, run.folder / "text_encoder.safetensors")

    return Stage(
        name="teacher",
        steps=config.steps,
        settings=config.lasting(),
        state={
            "model": model,
            "text": text,
            "optimizer": optimizer,
            **{f"average_{k}": v for k, v in averages.items()},
        },
        step=step,
        finish=finish,
        sample=sample,
    )


@torch.no_grad()
def sample_teacher(
    preset: Preset,
    run: Run,
    teacher: Transformer,
    text: TextEncoder,
    prompts: list[str],
    *,
    frames: int,
    steps: int = 20,
) -> Tensor:
    """Solve the teacher's ODE for some prompts: clean latents `[B, F, C, h, w]`."""
    keys, null_keys = (teacher.encode_text(text.embed(p, run.device)) for p in (prompts, [""] * len(prompts)))
    velocity = guided_velocity(
        teacher, keys, null_keys, guidance=preset.generation.guidance, visibility=teacher_visibility(preset)
    )
    noise = torch.randn(latent_shape(preset, len(prompts), frames), generator=step_generator(run.seed, "samples", 0))
    sigmas = schedule(steps, preset.generation.shift).tolist()
    return solve(velocity, noise.to(run.device), sigmas=sigmas)[0]


def latent_shape(preset: Preset, batch: int, frames: int) -> tuple[int, int, int, int, int]:
    """Return [B, F, C, h, w] of a preset's latents."""
    g, factor = preset.generation, preset.autoencoder_sizes.spatial_factor
    return (batch, frames, preset.transformer.in_channels, g.height // factor, g.width // factor)
