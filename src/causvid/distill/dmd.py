"""Distribution matching distillation: losses of the student and of the critic.

The student is moved down the gradient of KL(student || teacher), which at a noise level is the difference of the two
distributions' scores. The teacher is the score of real data; the critic tracks the score of what the student makes now.
How x0 arose, from noised data or from a rollout, does not matter here.

Source: DMD (2311.18828) equations 7 and 8; DMD2 (2405.14867); CausVid (2412.07772) section 4.2.
"""

import torch
from torch import Tensor
from torch.nn import functional

from causvid.flow import Velocity, add_noise, flow_matching_loss, x0_from_velocity


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
