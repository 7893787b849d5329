"""Stage `ode`: the causal student starts from the teacher's weights and learns the ends of its trajectories."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from causvid.distill.levels import draw_chunk_levels
from causvid.distill.ode import ode_loss
from causvid.flow import x0_from_velocity
from causvid.engine.rollout import rollout
from causvid.models.text import TextEncoder
from causvid.models.transformer import Transformer
from causvid.nn.chunks import chunk_layout
from causvid.preset import Preset
from causvid.train.artifacts import save_weights
from causvid.data.clips import held_out_prompts, load_autoencoder
from causvid.train.loop import Run, Stage, step_generator
from causvid.train.optimizer import Ema, adamw, autocast, learning_rate, update
from causvid.train.pairs import PairStore, student_sigmas
from causvid.train.samples import SAMPLES, write_samples
from causvid.train.teacher import (
    embed_captions,
    latent_shape,
    load_text_encoder,
    new_transformer,
    student_visibility,
)


def student_layout(preset: Preset) -> tuple[int, ...]:
    """Return the chunk sizes of a training clip."""
    g = preset.generation
    return chunk_layout(g.clip_frames, g.first, g.chunk)


def ode_stage(preset: Preset, run: Run) -> Stage:
    """Train the student on stored trajectories; the result is the average of its weights."""
    config = preset.recipe.ode
    store = PairStore.open(preset, run)
    text = load_text_encoder(preset, run)
    embeddings, rows = embed_captions(text, store.ids)
    store = replace(store, ids=rows)
    student = new_transformer(preset, run, weights="teacher.safetensors")
    parameters = list(student.parameters())
    optimizer, average = adamw(parameters, config), Ema(student, config.ema)
    visibility, layout = student_visibility(preset), student_layout(preset)
    levels = torch.tensor((*student_sigmas(preset), 0.0), device=run.device)

    def step(n: int) -> dict[str, Tensor]:
        generator = step_generator(run.seed, "ode", n, run.device)
        index = draw_chunk_levels(
            layout, batch=config.batch, levels=len(levels), generator=generator, clean_past=config.clean_past
        )
        x, clean, index, row = store.draw(index, generator, run.device)
        sigma = levels[index]
        with autocast(run):
            keys = student.encode_text(embeddings[row])
            velocity = student(x, sigma, keys, visibility=visibility)
        loss = ode_loss(x0_from_velocity(x, velocity, sigma), clean, sigma)
        norm = update(optimizer, loss, parameters, rate=learning_rate(config, n), clip=config.clip)
        average.update(student)
        return {"loss": loss.detach(), "grad_norm": norm}

    def averaged() -> Transformer:
        return average.copy_to(Transformer(preset.transformer).to(run.device))

    return Stage(
        name="ode",
        steps=config.steps,
        settings=config.lasting(),
        state={"student": student, "optimizer": optimizer, "average": average},
        step=step,
        finish=lambda: save_weights(averaged(), run.folder / "student_ode.safetensors"),
        sample=student_sampler(preset, run, text, averaged),
    )


def student_sampler(
    preset: Preset, run: Run, text: TextEncoder, student: Callable[[], Transformer]
) -> Callable[[Path, int], None]:
    """Return a function that rolls the present student out, to twice a training clip's length, for held-out prompts."""
    autoencoder = load_autoencoder(preset, run)
    g = preset.generation
    prompts = held_out_prompts(preset, SAMPLES)
    layout = chunk_layout(g.first + 2 * (g.clip_frames - g.first), g.first, g.chunk)

    @torch.no_grad()
    def sample(folder: Path, done: int) -> None:
        model = student()
        batch, _, *frame = latent_shape(preset, len(prompts), 1)
        cache = model.new_cache(batch=batch, height=frame[1], width=frame[2], window=g.window, sink=g.sink)
        chunks = rollout(
            model,
            model.encode_text(text.embed(prompts, run.device)),
            cache,
            chunks=layout,
            shape=(batch, frame[0], frame[1], frame[2]),
            sigmas=student_sigmas(preset),
            generator=step_generator(run.seed, "samples", 0),
        )
        write_samples(autoencoder.decode(torch.cat(list(chunks), dim=1)), prompts, folder, fps=g.fps)

    return sample
