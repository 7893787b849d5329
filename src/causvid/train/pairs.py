"""Stage `pairs`: the teacher's ODE trajectories, from which the student starts.

Letters: N clips, S levels of the student and then the clean end, F latent frames, C channels, h w, M text tokens.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from causvid.distill.levels import gather_states
from causvid.flow import schedule, warped_steps
from causvid.engine.solver import guided_velocity, held, solve
from causvid.preset import Preset
from causvid.data.clips import ClipStore
from causvid.train.loop import Run, Stage, step_generator
from causvid.train.optimizer import autocast
from causvid.data.shards import Shards
from causvid.train.teacher import (
    given_frames,
    latent_shape,
    load_text_encoder,
    new_transformer,
    teacher_visibility,
    token_mask,
)


def student_sigmas(preset: Preset) -> tuple[float, ...]:
    """Return the student's few noise levels."""
    return warped_steps(preset.generation.timesteps, preset.generation.shift)


def pairs_stage(preset: Preset, run: Run) -> Stage:
    """Solve the teacher's ODE for captions of the store, one shard of clips a step."""
    config, shift = preset.recipe.pairs, preset.generation.shift
    store = ClipStore.open(preset, run)
    text = load_text_encoder(preset, run)
    teacher = new_transformer(preset, run, weights="teacher.safetensors").eval()
    frames, first = preset.generation.clip_frames, preset.generation.first
    keep = (*student_sigmas(preset), 0.0)
    sigmas = schedule(config.steps, shift).tolist()
    shards = _shards(preset, run)
    null = text.embed([""], run.device)
    guidance, visibility = preset.generation.guidance, teacher_visibility(preset)

    @torch.no_grad()
    def step(n: int) -> dict[str, Tensor]:
        generator = step_generator(run.seed, "pairs", n, run.device)
        real, ids = store.draw(config.batch, frames=first, generator=generator, device=run.device)
        noise = torch.randn(latent_shape(preset, config.batch, frames), generator=generator, device=run.device)
        given = given_frames(noise, share=config.image, first=first, generator=generator)
        noise[:, :first] = torch.where(given[:, :first, None, None, None], real, noise[:, :first])
        with autocast(run):
            keys = teacher.encode_text(text(ids, token_mask(ids)))
            null_keys = teacher.encode_text(null.expand(config.batch, -1, -1))
            velocity = guided_velocity(teacher, keys, null_keys, guidance=guidance, visibility=visibility)
            clean, states = solve(held(velocity, given), noise, sigmas=sigmas, keep=keep)
        shards.save(n, {"trajectory": states.half(), "ids": ids.to(torch.int32)})
        return {"clean_std": clean.std()}

    return Stage(
        name="pairs",
        steps=shards.count,
        settings=config.lasting(),
        state={},
        step=step,
        finish=lambda: shards.mend(step),
    )


def _shards(preset: Preset, run: Run) -> Shards:
    config = preset.recipe.pairs
    return Shards(run.folder, "pairs", "pairs", -(-config.clips // config.batch))


@dataclass(frozen=True)
class PairStore:
    """Trajectories in memory: half `[N, S + 1, F, C, h, w]`, the last state clean, and token ids int32 `[N, M]`.

    A frame that the teacher was given is the same in every state. In place of token ids, `ids` may hold one number for
    each caption, `[N]`.
    """

    trajectory: Tensor
    ids: Tensor

    @classmethod
    def open(cls, preset: Preset, run: Run) -> "PairStore":
        """Read all shards of a run onto its device; `ValueError` if stage `pairs` has not finished."""
        trajectory, ids = _shards(preset, run).read("trajectory", "ids", device=run.device)
        return cls(trajectory, ids)

    def draw(
        self, index: Tensor, generator: torch.Generator, device: torch.device
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Draw trajectories and pick the state at level `index` `[B, F]` of each frame.

        Returns the states and the clean ends, fp32 `[B, F, C, h, w]`, the levels, the last one for frames that were
        given, and ids int64 `[B, M]` or `[B]`.
        """
        rows = torch.randint(len(self.trajectory), (len(index),), generator=generator, device=generator.device)
        rows = rows.to(self.trajectory.device)
        trajectory = self.trajectory[rows].to(device, torch.float32)
        given = (trajectory[:, 0] == trajectory[:, -1]).flatten(2).all(dim=2)
        index = index.to(device).masked_fill(given, trajectory.shape[1] - 1)
        return gather_states(trajectory, index), trajectory[:, -1], index, self.ids[rows].long().to(device)
