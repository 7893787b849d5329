"""Stage `teacher`: flow matching with full attention, or the student's, jointly with the small text encoder."""

from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor

from causvid.data.storybook import StorybookDataset
from causvid.distill import draw_clean_first
from causvid.engine.solver import guided_velocity, solve
from causvid.flow import add_noise, flow_matching_loss, randn_like, sample_logit_normal, schedule, x0_from_velocity
from causvid.preset import Preset
from causvid.recipe import phase_at, required
from causvid.seeding import step_generator
from causvid.train.distributed import recompute_blocks
from causvid.train.loop import Stage
from causvid.train.objective import Metrics, Micro, Objective, autocast
from causvid.train.reader import compare, misreading, told_by_captions, trained_reader
from causvid.train.roles import Roles, token_mask
from causvid.train.run import Run
from causvid.train.samples import sample_prompts, write_decoded
from causvid.train.sequence import part_of, split_tokens
from causvid.train.shapes import latent_size, teacher_visibility, tokens_of_frame

SAMPLE_STEPS = 20


def teacher_stage(preset: Preset, run: Run) -> Stage:
    """Train teacher and text encoder; the result is the average of their weights."""
    config, g = required(preset.recipe.teacher, "teacher"), preset.generation
    roles = Roles(preset, run, sharded=True)
    dataset, autoencoder = roles.dataset(), roles.decoder()
    model, text = roles.new_teacher(), roles.new_text_encoder()
    split_tokens(model, part_of(run.ranks), tokens=tokens_of_frame(preset))
    if config.recompute:
        recompute_blocks(model)
    ids_of, null_ids = (text.tokens(prompts)[0].to(run.device) for prompts in (dataset.captions, [""]))
    reader, told = None, {}
    if (config.perceptual or config.reward) and isinstance(dataset, StorybookDataset):
        reader = trained_reader(preset, run)
        told = told_by_captions(reader, dataset, preset, run)
    judge = torch.compile(compare, dynamic=False) if run.compiles else compare  # elementwise, mostly
    visibility = teacher_visibility(preset)
    together = {
        frames: torch.tensor([span.stop - span.start for span in visibility.spans(frames)], device=run.device)
        for frames in {phase.frames for phase in config.phases}
    }  # frames that share a noise level, by the length of a clip

    def loss(micro: Micro) -> tuple[Tensor, Metrics]:
        generator, device = micro.noise, run.device
        phase = phase_at(config.phases, micro.step / config.steps)
        batch = dataset.batch(phase.batch, frames=phase.frames, generator=generator)
        dropped = torch.rand((phase.batch, 1), generator=generator, device=device) < config.drop_prompt
        ids = torch.where(dropped, null_ids, ids_of[batch.captions])
        sizes = together[phase.frames]
        sigma = sample_logit_normal((phase.batch, len(sizes)), shift=g.shift, generator=generator, device=device)
        sigma = sigma.repeat_interleave(sizes, dim=1, output_size=phase.frames)
        clean = draw_clean_first(*sigma.shape, first=g.first, share=config.image, generator=generator, device=device)
        sigma = sigma.masked_fill(clean, 0.0)
        noise = randn_like(batch.latents, generator)
        noisy = add_noise(batch.latents, noise, sigma)
        with autocast(device):
            keys = model.encode_text(text(ids, token_mask(ids)))
            velocity = model(noisy, sigma, keys, visibility=visibility)
        flow = flow_matching_loss(velocity, batch.latents, noise, sigma)
        metrics = {"frames": torch.tensor(phase.frames)}
        if reader is None:
            return flow, metrics
        near = (sigma > 0) & (sigma < config.near_below)
        with autocast(device):
            apart, read = judge(reader, x0_from_velocity(noisy, velocity, sigma), batch.latents, near)
            missed = misreading(read, told, batch.captions, counts=(sigma < config.near_below).all(1))
        metrics |= {"flow": flow.detach(), "perceptual": apart.detach(), "missed": missed.detach()}
        return flow + config.perceptual * apart + config.reward * missed, metrics

    @torch.no_grad()
    def sample(folder: Path, done: int) -> None:
        phase = phase_at(config.phases, (done - 1) / config.steps)
        prompts = sample_prompts(preset, dataset.captions)
        shape = (len(prompts), phase.frames, *latent_size(preset))
        noise = torch.randn(shape, generator=step_generator(run.seed, "samples", 0)).to(run.device)
        latents = []
        eager = torch.compiler.set_stance("force_eager") if run.compiles else nullcontext()  # few graphs are kept
        with objective.shown(model, text), autocast(run.device), eager:
            for begin, part in zip(range(0, len(prompts), phase.batch), noise.split(phase.batch), strict=True):
                own = prompts[begin : begin + phase.batch]
                keys = (model.encode_text(text.embed(texts, run.device)) for texts in (own, [""] * len(own)))
                velocity = guided_velocity(model, *keys, guidance=g.guidance, visibility=visibility)
                latents.append(solve(velocity, part, sigmas=schedule(SAMPLE_STEPS, g.shift).tolist())[0])
        write_decoded(autoencoder, latents, prompts, folder, preset, run)

    objective = Objective("teacher", loss, {"model": model, "text": text}, config)
    return Stage(
        "teacher",
        config.steps,
        config.lasting(),
        finish=lambda: roles.save_teacher(objective.state(model), objective.averaged(text)),
        objectives=[objective],
        sample=sample,
    )
