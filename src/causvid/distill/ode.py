"""ODE initialisation: the student learns to jump from any state of the teacher's trajectory to its end.

Source: CausVid (2412.07772), section 4.3, equation 7.
"""

from torch import Tensor

from causvid.flow import noisy_mean


def ode_loss(x0: Tensor, clean: Tensor, sigma: Tensor) -> Tensor:
    """Return the mean squared error between predicted and final latents `[B, F, C, H, W]`.

    Frames whose `sigma` `[B, F]` is zero are clean and are left out; with nothing left the loss is zero.
    """
    return noisy_mean((x0.float() - clean.float()).square(), sigma)
