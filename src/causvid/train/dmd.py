"""Stage `dmd`: asymmetric distribution matching; a causal student against a bidirectional teacher and critic.

Where the teacher was trained to be causal, its score and the critic's are causal too.
"""

from dataclasses import replace

import torch
from torch import Tensor

from causvid.distill.dmd import critic_loss, student_loss
from causvid.distill.levels import draw_chunk_levels
from causvid.flow import Velocity, add_noise, randn_like, sample_timestep_sigma, x0_from_velocity
from causvid.generate.rollout import rollout
from causvid.generate.solver import guided_velocity
from causvid.models.transformer import TextKeys, Transformer
from causvid.preset import Preset
from causvid.train.artifacts import save_weights
from causvid.train.data import ClipStore
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

    def from_data(real: Tensor, keys: TextKeys, generator: torch.Generator) -> Tensor:
        """Predict x0 from real latents, every chunk noised to a level of its own."""
        sigma = levels[draw_chunk_levels(layout, batch=len(real), levels=len(few), generator=generator)]
        x = add_noise(real, randn_like(real, generator), sigma)
        return x0_from_velocity(x, student(x, sigma, keys, visibility=visibility), sigma)

    def from_rollout(real: Tensor, keys: TextKeys, generator: torch.Generator) -> Tensor:
        """Predict x0 by generating the clip with the student's own cache, leaving all chunks at one drawn step."""
        batch, _, channels, height, width = latent_shape(preset, len(real), 1)
        cache = student.new_cache(batch=batch, height=height, width=width, window=g.window, sink=g.sink)
        exit_step = int(torch.randint(len(few), (), generator=generator, device=generator.device))
        chunks = rollout(
            student,
            keys,
            cache,
            chunks=layout,
            shape=(batch, channels, height, width),
            sigmas=few,
            generator=generator,
            grad_step=exit_step,
        )
        return torch.cat(list(chunks), dim=1)

    make = {"data": from_data, "rollout": from_rollout}[config.student_input]

    def compare_levels(batch: int, generator: torch.Generator) -> Tensor:
        sigma = sample_timestep_sigma((batch, 1), shift=g.shift, generator=generator, device=run.device)
        return sigma.expand(-1, g.clip_frames)

    def prompt_batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        real, row = store.draw(config.batch, frames=g.clip_frames, generator=generator, device=run.device)
        return real, embeddings[row]

    def velocity_of(model: Transformer, embedding: Tensor, guidance: float = 1.0) -> Velocity:
        keys = model.encode_text(embedding)
        null_keys = keys if guidance == 1 else model.encode_text(null.expand(len(embedding), -1, -1))
        return guided_velocity(model, keys, null_keys, guidance=guidance, visibility=score_visibility)

    def critic_step(x0: Tensor, embedding: Tensor, generator: torch.Generator, rate: float) -> Tensor:
        sigma = compare_levels(len(x0), generator)
        with autocast(run):
            loss = critic_loss(x0, critic=velocity_of(critic, embedding), sigma=sigma, noise=randn_like(x0, generator))
        update(critic_optimizer, loss, critic_parameters, rate=rate, clip=config.clip)
        return loss.detach()

    def critic_batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        real, embedding = prompt_batch(generator)
        with torch.no_grad(), autocast(run):
            return make(real, student.encode_text(embedding), generator), embedding

    def step(n: int) -> dict[str, Tensor]:
        generator = step_generator(run.seed, "dmd", n, run.device)
        rate = learning_rate(config, n, config.critic_learning_rate)
        x0, embedding = critic_batch(generator)
        losses = [critic_step(x0, embedding, generator, rate)]
        for _ in range(1, config.critic_updates):
            # A rollout costs more than an update: all updates share one, each with noise of its own.
            if config.student_input == "data":
                x0, embedding = critic_batch(generator)
            losses.append(critic_step(x0, embedding, generator, rate))
        real, embedding = prompt_batch(generator)
        with autocast(run):
            x0 = make(real, student.encode_text(embedding), generator)
            with torch.no_grad():
                scores = velocity_of(teacher, embedding, config.guidance), velocity_of(critic, embedding)
            sigma = compare_levels(len(real), generator)
            loss = student_loss(x0, teacher=scores[0], critic=scores[1], sigma=sigma, noise=randn_like(x0, generator))
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
