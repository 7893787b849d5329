"""Stage `dmd`: asymmetric distribution matching; a causal student against a bidirectional teacher and critic.

Where the teacher was trained to be causal, its score and the critic's are causal too.
"""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from causvid.distill.dmd import critic_loss, student_loss
from causvid.distill.levels import draw_chunk_levels
from causvid.flow import Velocity, add_noise, randn_like, sample_timestep_sigma, x0_from_velocity
from causvid.engine.rollout import rollout
from causvid.engine.solver import guided_velocity
from causvid.models.transformer import TextKeys, Transformer
from causvid.preset import Preset
from causvid.train.artifacts import save_weights
from causvid.data.clips import ClipStore
from causvid.train.loop import Run, Stage, step_generator
from causvid.train.ode import student_layout, student_sampler
from causvid.train.optimizer import Ema, adamw, autocast, learning_rate, update
from causvid.train.pairs import student_sigmas
from causvid.train.teacher import (
    embed_captions,
    latent_shape,
    load_text_encoder,
    new_transformer,
    student_visibility,
    teacher_visibility,
)


class Made(NamedTuple):
    """What the student made: clean latents `[B, F, C, h, w]`, and their captions. given: how many frames were real."""

    x0: Tensor
    given: int
    embedding: Tensor


class Draws(NamedTuple):
    """Where a step's random values come from.

    noise: on the run's device. choices: on the CPU, which has to know what is chosen; it would have to wait for a
    device's own draw.
    """

    noise: torch.Generator
    choices: torch.Generator


def dmd_stage(preset: Preset, run: Run) -> Stage:
    """Distil: `critic_updates` critic steps to one student step; the result is the average of the student."""
    config, g = preset.recipe.dmd, preset.generation
    store = ClipStore.open(preset, run)
    text = load_text_encoder(preset, run)
    embeddings, rows = embed_captions(text, store.ids)
    store = replace(store, ids=rows)
    weights = {"ode": "student_ode.safetensors", "teacher": "teacher.safetensors"}[config.start]
    student = new_transformer(preset, run, weights=weights, made_by=config.start)
    teacher = new_transformer(preset, run, weights="teacher.safetensors").eval().requires_grad_(False)
    critic = new_transformer(preset, run, weights="teacher.safetensors")
    parameters, critic_parameters = list(student.parameters()), list(critic.parameters())
    optimizer, critic_optimizer = adamw(parameters, config), adamw(critic_parameters, config)
    average = Ema(student, config.ema)
    visibility, layout = student_visibility(preset), student_layout(preset)
    score_visibility = teacher_visibility(preset)
    few = student_sigmas(preset)
    levels = torch.tensor(few, device=run.device)
    null = text.embed([""], run.device)

    def from_data(real: Tensor, given: int, keys: TextKeys, draws: Draws) -> Tensor:
        """Predict x0 from real latents, every chunk noised to a level of its own, the `given` frames not at all."""
        sigma = levels[draw_chunk_levels(layout, batch=len(real), levels=len(few), generator=draws.noise)]
        sigma[:, :given] = 0.0
        x = add_noise(real, randn_like(real, draws.noise), sigma)
        return x0_from_velocity(x, student(x, sigma, keys, visibility=visibility), sigma)

    def from_rollout(real: Tensor, given: int, keys: TextKeys, draws: Draws) -> Tensor:
        """Predict x0 by generating the clip with the student's own cache, leaving all chunks at one drawn step.

        The `given` frames, none or the first chunk's, are real.
        """
        batch, _, channels, height, width = latent_shape(preset, len(real), 1)
        cache = student.new_cache(batch=batch, height=height, width=width, window=g.window, sink=g.sink)
        exit_step = int(torch.randint(len(few), (), generator=draws.choices))
        chunks = rollout(
            student,
            keys,
            cache,
            chunks=layout[1:] if given else layout,
            shape=(batch, channels, height, width),
            sigmas=few,
            generator=draws.noise,
            grad_step=exit_step,
            latest=real[:, :given] if given else None,
        )
        return torch.cat([real[:, :given], *chunks], dim=1)

    make = {"data": from_data, "rollout": from_rollout}[config.student_input]

    def compare_levels(given: int, generator: torch.Generator) -> Tensor:
        sigma = sample_timestep_sigma((config.batch, 1), shift=g.shift, generator=generator, device=run.device)
        sigma = sigma.repeat(1, g.clip_frames)
        sigma[:, :given] = 0.0
        return sigma

    def student_batch(draws: Draws) -> Made:
        real, row = store.draw(config.batch, frames=g.clip_frames, generator=draws.noise, device=run.device)
        image = len(layout) > 1 and float(torch.rand((), generator=draws.choices)) < config.image
        given, embedding = g.first if image else 0, embeddings[row]
        with autocast(run):
            return Made(make(real, given, student.encode_text(embedding), draws), given, embedding)

    def velocity_of(model: Transformer, embedding: Tensor, guidance: float = 1.0) -> Velocity:
        keys = model.encode_text(embedding)
        null_keys = keys if guidance == 1 else model.encode_text(null.expand(len(embedding), -1, -1))
        return guided_velocity(model, keys, null_keys, guidance=guidance, visibility=score_visibility)

    def critic_step(made: Made, generator: torch.Generator, rate: float) -> Tensor:
        sigma, noise = compare_levels(made.given, generator), randn_like(made.x0, generator)
        with autocast(run):
            loss = critic_loss(made.x0, critic=velocity_of(critic, made.embedding), sigma=sigma, noise=noise)
        update(critic_optimizer, loss, critic_parameters, rate=rate, clip=config.clip)
        return loss.detach()

    def step(n: int) -> dict[str, Tensor]:
        draws = Draws(step_generator(run.seed, "dmd", n, run.device), step_generator(run.seed, "dmd choices", n))
        rate = learning_rate(config, n, config.critic_learning_rate)
        with torch.no_grad():
            made = student_batch(draws)
        losses = [critic_step(made, draws.noise, rate)]
        for _ in range(1, config.critic_updates):
            # A rollout costs more than an update: all updates share one, each with noise of its own.
            if config.student_input == "data":
                with torch.no_grad():
                    made = student_batch(draws)
            losses.append(critic_step(made, draws.noise, rate))
        made = student_batch(draws)
        with autocast(run):
            with torch.no_grad():
                scores = velocity_of(teacher, made.embedding, config.guidance), velocity_of(critic, made.embedding)
            sigma, noise = compare_levels(made.given, draws.noise), randn_like(made.x0, draws.noise)
            loss = student_loss(made.x0, teacher=scores[0], critic=scores[1], sigma=sigma, noise=noise)
        norm = update(optimizer, loss, parameters, rate=learning_rate(config, n), clip=config.clip)
        average.update(student)
        return {"loss": loss.detach(), "critic_loss": torch.stack(losses).mean(), "grad_norm": norm}

    def averaged() -> Transformer:
        return average.copy_to(Transformer(preset.transformer).to(run.device))

    return Stage(
        name="dmd",
        steps=config.steps,
        settings=config.lasting(),
        state={
            "student": student,
            "critic": critic,
            "optimizer": optimizer,
            "critic_optimizer": critic_optimizer,
            "average": average,
        },
        step=step,
        finish=lambda: save_weights(averaged(), run.folder / "student.safetensors"),
        sample=student_sampler(preset, run, text, averaged),
    )
