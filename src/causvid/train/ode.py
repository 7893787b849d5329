"""Stages `pairs` and `ode`: the teacher's ODE trajectories, and the student that learns to jump to their ends.

Letters: B batch, N clips, S levels of the student and then the clean end, F latent frames, C channels, h w.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from causvid.data.dataset import number
from causvid.data.shards import Shards
from causvid.distill import draw_chunk_levels, draw_clean_first, gather_states, ode_loss
from causvid.engine.solver import guided_velocity, held, solve
from causvid.flow import schedule, x0_from_velocity
from causvid.models.transformer import Transformer
from causvid.preset import Preset
from causvid.recipe import required
from causvid.seeding import step_generator
from causvid.train.distributed import recompute_blocks
from causvid.train.loop import Stage
from causvid.train.objective import Metrics, Micro, Objective, autocast
from causvid.train.roles import Roles, embed_captions, trained_before
from causvid.train.run import Run
from causvid.train.samples import sample_prompts, student_sampler
from causvid.train.sequence import part_of, split_tokens
from causvid.train.shapes import (
    latent_size,
    student_layout,
    student_sigmas,
    student_visibility,
    teacher_visibility,
    tokens_of_frame,
)


def trajectory_shards(preset: Preset, run: Run) -> Shards:
    """Return the shards of a run's trajectories."""
    config = required(preset.recipe.pairs, "pairs")
    return Shards(run.folder / "pairs", -(-config.clips // config.batch))


def pairs_stage(preset: Preset, run: Run) -> Stage:
    """Solve the teacher's ODE for captions of the data, a shard a step."""
    config, g = required(preset.recipe.pairs, "pairs"), preset.generation
    roles = Roles(preset, run)
    dataset = roles.dataset(one_size=True, real=config.image > 0)
    text, teacher = roles.text_encoder(), roles.teacher()
    keep = (*student_sigmas(preset), 0.0)
    sigmas = schedule(config.steps, g.shift).tolist()
    shards = trajectory_shards(preset, run)
    shape = (config.batch, g.clip_frames, *latent_size(preset))

    @torch.no_grad()
    def make(n: int) -> Metrics:
        generator = step_generator(run.seed, "pairs", n, run.device)
        real = dataset.batch(config.batch, frames=g.first, generator=generator)
        prompts = [dataset.captions[place] for place in real.captions.tolist()]
        noise = torch.randn(shape, generator=generator, device=run.device)
        clean = draw_clean_first(*shape[:2], first=g.first, share=config.image, generator=generator, device=run.device)
        noise[:, : g.first] = torch.where(clean[:, : g.first, None, None, None], real.latents, noise[:, : g.first])
        embeddings = [text.embed(texts, run.device) for texts in (prompts, [""] * config.batch)]
        with autocast(run.device):
            keys = map(teacher.encode_text, embeddings)
            velocity = guided_velocity(teacher, *keys, guidance=g.guidance, visibility=teacher_visibility(preset))
            end, states = solve(held(velocity, clean), noise, sigmas=sigmas, keep=keep)
        shards.save(n, {"trajectory": states.half()}, prompts)
        return {"clean_std": end.std()}

    return Stage(
        "pairs",
        shards.count,
        config.lasting() | trained_before(preset),
        finish=lambda: shards.repair(make),
        make=make,
    )


@dataclass(frozen=True)
class TrajectoryStore:
    """Trajectories in memory: half `[N, S + 1, F, C, h, w]`, the last state clean, and their captions' numbers `[N]`.

    A frame that the teacher was conditioned on is the same in every state.
    """

    trajectory: Tensor
    captions: Sequence[str]
    numbers: Tensor

    @classmethod
    def open(cls, preset: Preset, run: Run) -> "TrajectoryStore":
        """Read all shards onto the run's device; `ValueError` if stage `pairs` has not finished."""
        trajectory, captions = trajectory_shards(preset, run).read("trajectory", device=run.device)
        distinct, numbers = number(captions)
        return cls(trajectory, distinct, torch.tensor(numbers, device=run.device))

    def draw(self, index: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Draw trajectories and pick the state at level `index` `[B, F]` of each frame.

        Returns the states and the clean ends, fp32 `[B, F, C, h, w]`, the levels, the last one for frames that the
        teacher was conditioned on, and the captions' numbers `[B]`.
        """
        rows = torch.randint(len(self.trajectory), (len(index),), generator=generator, device=generator.device)
        rows = rows.to(self.trajectory.device)
        trajectory = self.trajectory[rows].float()
        clean = (trajectory[:, 0] == trajectory[:, -1]).flatten(2).all(dim=2)
        index = index.to(trajectory.device).masked_fill(clean, trajectory.shape[1] - 1)
        return gather_states(trajectory, index), trajectory[:, -1], index, self.numbers[rows]


def ode_stage(preset: Preset, run: Run) -> Stage:
    """Train the student, from the teacher's weights, on stored trajectories; the result is the average of its own."""
    config = required(preset.recipe.ode, "ode")
    roles, store = Roles(preset, run, sharded=config.lora is None), TrajectoryStore.open(preset, run)
    text = roles.text_encoder()
    embeddings = embed_captions(text, store.captions, run.device)

    @contextmanager
    def present() -> Iterator[Transformer]:
        with objective.shown(trained.weights):
            yield trained.model

    sampler = student_sampler(
        roles,
        text,
        present,
        sample_prompts(preset, store.captions),
        batch=config.batch,
    )
    del text  # it may be larger than a device's share of the rest
    trained = roles.student("teacher", config.lora)
    student = trained.model
    split_tokens(student, part_of(run.ranks, sharded=config.lora is None), tokens=tokens_of_frame(preset))
    if config.recompute:
        recompute_blocks(student)
    visibility, layout = student_visibility(preset), student_layout(preset)
    levels = torch.tensor((*student_sigmas(preset), 0.0), device=run.device)

    def loss(micro: Micro) -> tuple[Tensor, Metrics]:
        index = draw_chunk_levels(
            layout, batch=config.batch, levels=len(levels), generator=micro.noise, clean_past=config.clean_past
        )
        x, end, index, captions = store.draw(index, micro.noise)
        sigma = levels[index]
        with autocast(run.device):
            keys = student.encode_text(embeddings[captions])
            velocity = student(x, sigma, keys, visibility=visibility)
        return ode_loss(x0_from_velocity(x, velocity, sigma), end, sigma), {}

    objective = Objective("student", loss, {"student": trained.weights}, config)
    return Stage(
        "ode",
        config.steps,
        config.lasting() | trained_before(preset),
        finish=lambda: roles.save_student("ode", trained, objective.state(trained.weights)),
        objectives=[objective],
        sample=sampler,
    )
