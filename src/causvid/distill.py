"""Losses of distillation as equations, and the noise levels they are asked at.

ODE initialisation: the student learns to jump from any state of the teacher's trajectory to its end. Distribution
matching: it is moved down the gradient of KL(student || teacher), which at a noise level is the difference of the two
distributions' scores. The teacher is the score of real data; the critic tracks the score of what the student makes now.
How x0 arose, from noised data or from a rollout, does not matter here.

Source: DMD (2311.18828) equations 7 and 8; DMD2 (2405.14867); CausVid (2412.07772) sections 4.2 and 4.3, equation 7.

Letters: B batch, F latent frames, S levels, C H W a latent frame.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from causvid.flow import Velocity, add_noise, flow_matching_loss, noisy_mean, x0_from_velocity


def ode_loss(x0: Tensor, clean: Tensor, sigma: Tensor) -> Tensor:
    """Return the mean squared error between predicted and final latents `[B, F, C, H, W]`.

    Frames whose `sigma` `[B, F]` is zero are clean and are left out; with nothing left the loss is zero.
    """
    return noisy_mean((x0.float() - clean.float()).square(), sigma)


def dmd_gradient(x0: Tensor, x0_teacher: Tensor, x0_critic: Tensor) -> Tensor:
    """Return (x0_critic - x0_teacher) / mean |x0 - x0_teacher|, the mean taken over each sample; NaN becomes 0."""
    scale = (x0 - x0_teacher).abs().flatten(1).mean(dim=1).reshape(-1, *(1,) * (x0.ndim - 1))
    return torch.nan_to_num((x0_critic - x0_teacher) / scale, nan=0.0, posinf=0.0, neginf=0.0)


def student_loss(x0: Tensor, *, teacher: Velocity, critic: Velocity, sigma: Tensor, noise: Tensor) -> Tensor:
    """Return the loss whose gradient in `x0` `[B, F, C, H, W]` is the DMD gradient, up to the mean over elements.

    `sigma` `[B, F]` is shared by all frames of a clip, since teacher and critic see whole clips; only frames that the
    student was conditioned on have 0, and get no gradient. `teacher` includes its guidance, `critic` has none.
    """
    with torch.no_grad():
        x = add_noise(x0.detach().float(), noise, sigma)
        x0_teacher = x0_from_velocity(x, teacher(x, sigma), sigma)
        x0_critic = x0_from_velocity(x, critic(x, sigma), sigma)
        target = x0.detach().float() - dmd_gradient(x0.detach().float(), x0_teacher.float(), x0_critic.float())
    return 0.5 * functional.mse_loss(x0.float(), target)


def critic_loss(x0: Tensor, *, critic: Velocity, sigma: Tensor, noise: Tensor) -> Tensor:
    """Return the flow-matching loss of the critic on student samples `x0`, which get no gradient.

    Frames whose `sigma` is zero are those the student was conditioned on, and are left out.
    """
    x0 = x0.detach().float()
    return flow_matching_loss(critic(add_noise(x0, noise, sigma), sigma), x0, noise, sigma)


def draw_chunk_levels(
    layout: Sequence[int], *, batch: int, levels: int, generator: torch.Generator, clean_past: float = 0.0
) -> Tensor:
    """Draw a level index for every chunk independently and repeat it over the chunk's frames: int64 `[B, F]`.

    In a share `clean_past` of the clips a chunk is drawn as well, and those before it get the last level, which must
    then be the clean one: what a chunk of a rollout sees, and independent draws seldom show.
    """
    draws = torch.randint(levels, (batch, len(layout)), generator=generator, device=generator.device)
    if clean_past > 0:
        chunk = torch.randint(len(layout), (batch, 1), generator=generator, device=draws.device)
        rolled = torch.rand((batch, 1), generator=generator, device=draws.device) < clean_past
        past = torch.arange(len(layout), device=draws.device) < chunk
        draws = draws.masked_fill(rolled & past, levels - 1)
    return draws.repeat_interleave(torch.tensor(layout, device=draws.device), dim=1, output_size=sum(layout))


def draw_clean_first(
    batch: int, frames: int, *, first: int, share: float, generator: torch.Generator, device: torch.device
) -> Tensor:
    """Draw which frames are clean, as an image to be continued is: the first chunk's, in a share of the clips.

    Returns bool `[B, F]`. Nothing is drawn for a share of 0, and clips no longer than the first chunk have none.
    """
    clean = torch.zeros(batch, frames, dtype=torch.bool, device=device)
    if share > 0 and frames > first:
        drawn = torch.rand((batch, 1), generator=generator, device=generator.device) < share
        clean[:, :first] = drawn.to(device)
    return clean


def gather_states(trajectory: Tensor, index: Tensor) -> Tensor:
    """Pick for every frame one state of `trajectory` `[B, S, F, C, H, W]` by `index` `[B, F]`: `[B, F, C, H, W]`."""
    rows = torch.arange(trajectory.shape[0], device=trajectory.device)[:, None]
    columns = torch.arange(trajectory.shape[2], device=trajectory.device)[None]
    return trajectory[rows, index, columns]
