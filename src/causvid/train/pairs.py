"""Stage `pairs`: the teacher's ODE trajectories, from which the student starts; a shard a step."""

import torch

from causvid.data.trajectories import trajectory_shards
from causvid.distill.levels import draw_clean_first
from causvid.engine.solver import guided_velocity, held, solve
from causvid.flow import schedule
from causvid.preset import Preset
from causvid.recipe import required
from causvid.seeding import step_generator
from causvid.train.loop import Stage
from causvid.train.objective import Metrics
from causvid.train.optimizer import autocast
from causvid.train.roles import Roles, latent_size, student_sigmas, teacher_visibility
from causvid.train.run import Run


def pairs_stage(preset: Preset, run: Run) -> Stage:
    """Solve the teacher's ODE for captions of the data."""
    config, g = required(preset.recipe.pairs, "pairs"), preset.generation
    roles = Roles(preset, run)
    dataset, text, teacher = roles.dataset(), roles.text_encoder(), roles.teacher()
    keep = (*student_sigmas(preset), 0.0)
    sigmas = schedule(config.steps, g.shift).tolist()
    shards = trajectory_shards(preset, run.folder / "pairs")
    shape = (config.batch, g.clip_frames, *latent_size(preset))

    @torch.no_grad()
    def make(n: int) -> Metrics:
        generator = step_generator(run.seed, "pairs", n, run.device)
        real = dataset.batch(config.batch, frames=g.first, generator=generator)
        prompts = [dataset.captions[number] for number in real.captions.tolist()]
        noise = torch.randn(shape, generator=generator, device=run.device)
        clean = draw_clean_first(*shape[:2], first=g.first, share=config.image, generator=generator, device=run.device)
        noise[:, : g.first] = torch.where(clean[:, : g.first, None, None, None], real.latents, noise[:, : g.first])
        embeddings = [text.embed(texts, run.device) for texts in (prompts, [""] * config.batch)]
        with autocast(run.device):
            keys, null_keys = map(teacher.encode_text, embeddings)
            velocity = guided_velocity(
                teacher, keys, null_keys, guidance=g.guidance, visibility=teacher_visibility(preset)
            )
            end, states = solve(held(velocity, clean), noise, sigmas=sigmas, keep=keep)
        shards.save(n, {"trajectory": states.half()}, prompts)
        return {"clean_std": end.std()}

    return Stage(
        name="pairs",
        steps=shards.count,
        settings=config.lasting(),
        make=make,
        finish=lambda: shards.repair(make),
    )
