"""Stage `dmd`: asymmetric distribution matching; a causal student against a bidirectional teacher and critic.

Where the teacher was trained to be causal, its score and the critic's are causal too. Beside it, the student may be
rewarded for what the reader reads off its clips.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from causvid.data.storybook import StorybookDataset
from causvid.distill import critic_loss, draw_chunk_levels, student_loss
from causvid.engine.rollout import rollout
from causvid.engine.solver import guided_velocity
from causvid.flow import Velocity, add_noise, randn_like, sample_timestep_sigma, x0_from_velocity
from causvid.models.transformer import TextKeys, Transformer
from causvid.preset import Preset
from causvid.recipe import required
from causvid.train.distributed import recompute_blocks
from causvid.train.loop import Stage
from causvid.train.objective import Metrics, Micro, Objective, autocast
from causvid.train.reader import misreading, told_by_captions, trained_reader
from causvid.train.roles import Roles, embed_captions, trained_before
from causvid.train.run import Run
from causvid.train.samples import sample_prompts, student_sampler
from causvid.train.sequence import part_of, split_tokens
from causvid.train.shapes import student_layout, student_sigmas, student_visibility, teacher_visibility, tokens_of_frame
from causvid.train.stepwise import Stepwise


class Sample(NamedTuple):
    """Latents from the student, `[B, F, C, h, w]`, and the numbers `[B]` of their captions; `clean` frames are real."""

    x0: Tensor
    clean: int
    captions: Tensor


def dmd_stage(preset: Preset, run: Run) -> Stage:
    """Distil: `critic_updates` updates of the critic to one of the student; the result is the student's average."""
    config, g = required(preset.recipe.dmd, "dmd"), preset.generation
    roles = Roles(preset, run, sharded=config.lora is None)
    real_latents = config.student_input == "data" or config.image > 0
    dataset, text = roles.dataset(real=real_latents), roles.text_encoder()
    embeddings, null = roles.embeddings(dataset, text), embed_captions(text, [""], run.device)

    @contextmanager
    def present() -> Iterator[Transformer]:
        with objective.shown(trained.weights):
            yield trained.model

    sampler = student_sampler(
        roles,
        text,
        present,
        sample_prompts(preset, dataset.captions),
        batch=config.batch,
    )
    del text  # it may be larger than a device's share of the rest
    trained, teacher, scored = roles.student(config.start, config.lora), roles.teacher(), roles.critic(config.lora)
    student, critic = trained.model, scored.model
    part = part_of(run.ranks, sharded=config.lora is None)
    for model in (student, teacher, critic):
        split_tokens(model, part, tokens=tokens_of_frame(preset))
    for model in (student, critic) if config.recompute else ():
        recompute_blocks(model)
    visibility, layout = student_visibility(preset), student_layout(preset)
    score_visibility, few = teacher_visibility(preset), student_sigmas(preset)
    levels = torch.tensor(few, device=run.device)
    reader, told = None, {}
    if config.reward and isinstance(dataset, StorybookDataset):
        reader = trained_reader(preset, run)
        told = told_by_captions(reader, dataset, preset, run)
    shared: dict[int, Sample] = {}
    stepwise = Stepwise()

    def from_data(real: Tensor, clean: int, keys: TextKeys, micro: Micro) -> Tensor:
        """Predict x0 from real latents, each chunk noised to another level, the `clean` frames not at all."""
        sigma = levels[draw_chunk_levels(layout, batch=len(real), levels=len(few), generator=micro.noise)]
        sigma[:, :clean] = 0.0
        x = add_noise(real, randn_like(real, micro.noise), sigma)
        return x0_from_velocity(x, student(x, sigma, keys, visibility=visibility), sigma)

    def from_rollout(real: Tensor, clean: int, keys: TextKeys, micro: Micro) -> Tensor:
        """Predict x0 by generating the clip with the student's cache, leaving all chunks at one drawn step.

        The `clean` frames, none or the first chunk's, are real.
        """
        channels, height, width = real.shape[2:]
        window = min(g.window, g.clip_frames)  # no more room than a clip takes
        cache = student.new_cache(
            batch=len(real), height=height, width=width, window=window, sink=g.sink, chunk=max(layout)
        )
        chunks = rollout(
            student,
            stepwise.text(keys),
            cache,
            chunks=layout[1:] if clean else layout,
            shape=(len(real), channels, height, width),
            sigmas=few,
            generator=micro.noise,
            grad_step=int(torch.randint(len(few), (), generator=micro.choices)),
            latest=real[:, :clean] if clean else None,
        )
        return torch.cat([real[:, :clean], stepwise.join(chunks)], dim=1)

    predict = {"data": from_data, "rollout": from_rollout}[config.student_input]

    def sample(micro: Micro) -> Sample:
        real = dataset.batch(config.batch, frames=g.clip_frames, generator=micro.noise)
        image = len(layout) > 1 and float(torch.rand((), generator=micro.choices)) < config.image
        clean, keys = g.first if image else 0, student.encode_text(embeddings[real.captions])
        return Sample(predict(real.latents, clean, keys, micro), clean, real.captions)

    def levels_to_compare(clean: int, generator: torch.Generator) -> Tensor:
        sigma = sample_timestep_sigma((config.batch, 1), shift=g.shift, generator=generator, device=run.device)
        sigma = sigma.repeat(1, g.clip_frames)
        sigma[:, :clean] = 0.0
        return sigma

    def velocity_of(model: Transformer, captions: Tensor, guidance: float = 1.0) -> Velocity:
        def velocity(x: Tensor, sigma: Tensor) -> Tensor:
            keys = model.encode_text(embeddings[captions])
            null_keys = keys if guidance == 1 else model.encode_text(null.expand(len(captions), -1, -1))
            return guided_velocity(model, keys, null_keys, guidance=guidance, visibility=score_visibility)(x, sigma)

        return velocity

    def loss_of_critic(micro: Micro) -> tuple[Tensor, Metrics]:
        with autocast(run.device):
            # A rollout costs more than an update: all updates of a step share one, with different noise.
            if config.student_input == "data" or micro.update == 0:
                with torch.no_grad():
                    shared[micro.index] = sample(micro)
            x0, clean, captions = shared[micro.index]
            sigma, noise = levels_to_compare(clean, micro.noise), randn_like(x0, micro.noise)
            return critic_loss(x0, critic=velocity_of(critic, captions), sigma=sigma, noise=noise), {}

    def loss_of_student(micro: Micro) -> tuple[Tensor, Metrics]:
        with autocast(run.device):
            x0, clean, captions = sample(micro)
            scores = velocity_of(teacher, captions, config.guidance), velocity_of(critic, captions)
            sigma, noise = levels_to_compare(clean, micro.noise), randn_like(x0, micro.noise)
            matched = student_loss(x0, teacher=scores[0], critic=scores[1], sigma=sigma, noise=noise)
            if reader is None:
                return matched, {}
            missed = misreading(reader(x0), told, captions)
        return matched + config.reward * missed, {"matched": matched.detach(), "missed": missed.detach()}

    critic_objective = Objective(
        "critic",
        loss_of_critic,
        {"critic": scored.weights},
        config,
        rate=config.critic_learning_rate,
        updates=config.critic_updates,
        has_average=False,
    )
    objective = Objective("student", loss_of_student, {"student": trained.weights}, config, then=stepwise.finish)
    return Stage(
        "dmd",
        config.steps,
        config.lasting() | trained_before(preset),
        finish=lambda: roles.save_student("dmd", trained, objective.state(trained.weights)),
        objectives=[critic_objective, objective],
        sample=sampler,
    )
