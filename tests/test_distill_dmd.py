"""Distribution matching against Gaussians, for which divergence and scores are known in closed form."""

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from causvid.distill import critic_loss, dmd_gradient, student_loss
from causvid.flow import randn_like

SHAPE = (3, 2, 4, 6, 10)
DATA = (1.5, 0.4)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def wide(sigma: Tensor) -> Tensor:
    return sigma[..., None, None, None]


def gaussian_velocity(mean: Tensor | float, spread: Tensor | float):
    """The exact velocity when clean latents are N(mean, spread^2): E[noise - x0 | x]."""

    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        s = wide(sigma)
        variance = (1 - s) ** 2 * spread**2 + s**2
        return (s - (1 - s) * spread**2) / variance * (x - (1 - s) * mean) - mean

    return velocity


def gaussian_x0(mean: float, spread: float, x: Tensor, sigma: Tensor) -> Tensor:
    """E[x0 | x] when clean latents are N(mean, spread^2)."""
    s = wide(sigma)
    return mean + (1 - s) * spread**2 / ((1 - s) ** 2 * spread**2 + s**2) * (x - (1 - s) * mean)


def divergence(mean: Tensor, spread: Tensor, sigma: float) -> Tensor:
    """KL(student || data) after both were noised to `sigma`."""

    def noised(m: Tensor, s: Tensor) -> Normal:
        return Normal((1 - sigma) * m, ((1 - sigma) ** 2 * s**2 + sigma**2).sqrt())

    return kl_divergence(noised(mean, spread), noised(*torch.tensor(DATA)))


@pytest.mark.parametrize("sigma", [0.2, 0.5, 0.9])
def test_gradient_in_the_mean_is_that_of_the_divergence(sigma):
    """Equal spreads make it exact: with g = x0_critic - x0_teacher, dKL/dmean = ((1 - sigma) / sigma)^2 g."""
    mean, spread = torch.tensor(-0.3, requires_grad=True), torch.tensor(DATA[1])
    z, noise = torch.randn(2, *SHAPE, generator=seeded())
    x0, levels = mean + spread * z, torch.full(SHAPE[:2], sigma)
    loss = student_loss(
        x0,
        teacher=gaussian_velocity(*DATA),
        critic=gaussian_velocity(mean.detach(), spread),
        sigma=levels,
        noise=noise,
    )
    (ours,) = torch.autograd.grad(loss, mean)
    (exact,) = torch.autograd.grad(divergence(mean, spread, sigma), mean)
    clean = x0.detach()
    x = (1 - sigma) * clean + sigma * noise
    scale = (clean - gaussian_x0(*DATA, x, levels)).abs().mean(dim=(1, 2, 3, 4))
    expected = exact * (sigma / (1 - sigma)) ** 2 * (1 / scale).mean()
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.3, 0.7])
def test_gradient_in_mean_and_spread_points_down_the_divergence(sigma):
    """With unequal spreads it holds in expectation over clips and noise."""
    mean, spread = torch.tensor(0.2, requires_grad=True), torch.tensor(0.9, requires_grad=True)
    shape = (1, 1, 1, 500, 1000)
    z, noise = torch.randn(2, *shape, generator=seeded())
    levels = torch.full((1, 1), sigma)
    loss = student_loss(
        mean + spread * z,
        teacher=gaussian_velocity(*DATA),
        critic=gaussian_velocity(mean.detach(), spread.detach()),
        sigma=levels,
        noise=noise,
    )
    ours = torch.stack(torch.autograd.grad(loss, (mean, spread)))
    exact = torch.stack(torch.autograd.grad(divergence(mean, spread, sigma), (mean, spread)))
    clean = (mean + spread * z).detach()
    scale = (clean - gaussian_x0(*DATA, (1 - sigma) * clean + sigma * noise, levels)).abs().mean()
    torch.testing.assert_close(ours * scale * ((1 - sigma) / sigma) ** 2, exact, rtol=0.02, atol=0.01)


def test_a_student_that_follows_the_gradient_becomes_the_data():
    student = torch.tensor([-0.5, 1.2], requires_grad=True)
    optimizer = torch.optim.Adam([student], lr=0.05)
    generator = seeded()
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 300)
        z, noise = torch.randn(2, 16, 1, 1, 8, 8, generator=generator)
        mean, spread = student
        loss = student_loss(
            mean + spread * z,
            teacher=gaussian_velocity(*DATA),
            critic=gaussian_velocity(mean.detach(), spread.detach()),
            sigma=0.02 + 0.96 * torch.rand(16, 1, generator=generator),
            noise=noise,
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert student.tolist() == pytest.approx(DATA, abs=0.05)


def test_the_gradient_is_critic_minus_teacher_over_the_mean_distance_of_each_sample():
    x0, teacher, critic = torch.randn(3, *SHAPE, generator=seeded())
    g = dmd_gradient(x0, teacher, critic)
    for i in range(len(x0)):
        torch.testing.assert_close(g[i], (critic[i] - teacher[i]) / (x0[i] - teacher[i]).abs().mean())
    scaled = dmd_gradient(x0, *(x0 + 10 * (t - x0) for t in (teacher, critic)))
    torch.testing.assert_close(scaled, g, rtol=1e-4, atol=1e-5)  # the size of the error does not matter


def test_the_loss_is_half_the_squared_gradient_and_its_slope_the_gradient():
    x0, noise = torch.randn(2, *SHAPE, generator=seeded())
    x0.requires_grad_()
    sigma = torch.tensor([[0.2], [0.5], [0.8]]).expand(3, 2)
    loss = student_loss(
        x0, teacher=gaussian_velocity(*DATA), critic=gaussian_velocity(0.0, 1.0), sigma=sigma, noise=noise
    )
    loss.backward()
    x = (1 - wide(sigma)) * x0.detach() + wide(sigma) * noise
    g = dmd_gradient(x0.detach(), gaussian_x0(*DATA, x, sigma), gaussian_x0(0.0, 1.0, x, sigma))
    torch.testing.assert_close(loss.detach(), 0.5 * g.square().mean(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(x0.grad, g / g.numel(), rtol=1e-3, atol=1e-7)


def test_where_teacher_and_critic_agree_there_is_no_gradient():
    x0, noise = torch.randn(2, *SHAPE, generator=seeded())
    x0.requires_grad_()
    same = gaussian_velocity(*DATA)
    student_loss(x0, teacher=same, critic=same, sigma=torch.full(SHAPE[:2], 0.4), noise=noise).backward()
    assert x0.grad.abs().max() < 1e-9


def test_a_broken_sample_gives_zero_and_spoils_no_other():
    x0, teacher, critic = torch.randn(3, *SHAPE, generator=seeded())
    whole = dmd_gradient(x0, teacher, critic)
    teacher[0, 0, 0, 0, 0] = float("nan")
    teacher[1] = critic[1] = x0[1]  # 0 / 0
    g = dmd_gradient(x0, teacher, critic)
    assert g[:2].abs().max() == 0
    assert torch.equal(g[2], whole[2])
    critic[1] = x0[1] + 1  # 1 / 0
    assert dmd_gradient(x0, teacher, critic)[1].abs().max() == 0


class Scaled(torch.nn.Module):
    """The smallest network: a velocity with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.7))
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.seen.append(x)
        return self.weight * x


def test_each_loss_reaches_its_own_network_only():
    teacher, critic = Scaled(), Scaled()
    critic.weight.data += 0.1
    student = torch.nn.Parameter(torch.tensor(0.5))
    z, noise = torch.randn(2, *SHAPE, generator=seeded())
    sigma = torch.full(SHAPE[:2], 0.6)

    student_loss(student * z, teacher=teacher, critic=critic, sigma=sigma, noise=noise).backward()
    assert student.grad.abs() > 0 and teacher.weight.grad is None and critic.weight.grad is None
    assert torch.equal(teacher.seen[0], critic.seen[0]), "teacher and critic must judge the same noised latents"

    student.grad = None
    critic_loss(student * z, critic=critic, sigma=sigma, noise=noise).backward()
    assert critic.weight.grad.abs() > 0 and student.grad is None and teacher.weight.grad is None


def test_the_critic_learns_the_velocity_of_what_the_student_makes():
    x0 = 0.3 + 0.8 * torch.randn(64, 1, 1, 20, 20, generator=seeded(1))
    noise = randn_like(x0, seeded(2))
    sigma = torch.rand(64, 1, generator=seeded(3))
    assert critic_loss(x0, critic=lambda x, s: noise - x0, sigma=sigma, noise=noise) == 0

    def loss(mean: float, spread: float) -> float:
        return critic_loss(x0, critic=gaussian_velocity(mean, spread), sigma=sigma, noise=noise).item()

    assert loss(0.3, 0.8) < min(loss(0.5, 0.8), loss(0.1, 0.8), loss(0.3, 0.6), loss(0.3, 1.1))


def test_losses_of_bfloat16_latents_are_computed_in_fp32():
    x0, noise = torch.randn(2, *SHAPE, generator=seeded())
    sigma = torch.full(SHAPE[:2], 0.5)
    half = x0.bfloat16()
    judges = {"teacher": gaussian_velocity(*DATA), "critic": gaussian_velocity(0.0, 1.0)}
    a = student_loss(half, **judges, sigma=sigma, noise=noise)
    assert a.dtype == torch.float32 and torch.equal(a, student_loss(half.float(), **judges, sigma=sigma, noise=noise))
    b = critic_loss(half, critic=judges["critic"], sigma=sigma, noise=noise)
    assert torch.equal(b, critic_loss(half.float(), critic=judges["critic"], sigma=sigma, noise=noise))
