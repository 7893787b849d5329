"""Stage `ode`: the causal student starts from the teacher's weights and learns the ends of its trajectories."""

import torch
from torch import Tensor

from causvid.data.trajectories import TrajectoryStore
from causvid.distill.levels import draw_chunk_levels
from causvid.distill.ode import ode_loss
from causvid.flow import x0_from_velocity
from causvid.preset import Preset
from causvid.recipe import required
from causvid.train.loop import Stage
from causvid.train.objective import Metrics, Micro, make_objective
from causvid.train.optimizer import Ema, autocast
from causvid.train.prompts import embed_captions, sample_prompts
from causvid.train.roles import Roles, student_layout, student_sigmas, student_visibility
from causvid.train.run import Run, save_weights
from causvid.train.samples import student_sampler


def ode_stage(preset: Preset, run: Run) -> Stage:
    """Train the student on stored trajectories; the result is the average of its weights."""
    config = required(preset.recipe.ode, "ode")
    roles = Roles(preset, run)
    store = TrajectoryStore.open(preset, run.folder / "pairs", device=run.device)
    text, student = roles.text_encoder(), roles.student("teacher")
    embeddings = embed_captions(text, store.captions, run.device)
    average = Ema(student, config.ema)
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

    return Stage(
        name="ode",
        steps=config.steps,
        settings=config.lasting(),
        modules={"student": student},
        objectives=[make_objective("student", loss, list(student.parameters()), config, averages={"student": average})],
        finish=lambda: save_weights(average.averaged(), run.folder / "student_ode.safetensors"),
        sample=student_sampler(roles, text, average.averaged, sample_prompts(preset, store.captions)),
    )
