"""The many-step solver against Gaussians, whose ODE has a closed form, and guidance against its formula."""

from itertools import pairwise

import pytest
import torch

from causvid.config import TransformerConfig
from causvid.engine.solver import guided_velocity, held, solve
from causvid.flow import schedule, x0_from_velocity
from causvid.models.transformer import Transformer
from causvid.nn.visibility import Visibility

MEAN, SPREAD = 1.5, 0.4


def gaussian_state(noise: torch.Tensor, sigma: float) -> torch.Tensor:
    """Where the ODE from `noise` stands at `sigma` when data are N(MEAN, SPREAD^2): quantiles are kept."""
    return (1 - sigma) * MEAN + ((1 - sigma) ** 2 * SPREAD**2 + sigma**2) ** 0.5 * noise


def gaussian_velocity(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """E[noise - x0 | x] when data are N(MEAN, SPREAD^2)."""
    s = sigma.to(x.dtype)[..., None, None, None]
    variance = (1 - s) ** 2 * SPREAD**2 + s**2
    return (s - (1 - s) * SPREAD**2) / variance * (x - (1 - s) * MEAN) - MEAN


@pytest.fixture
def noise() -> torch.Tensor:
    return torch.randn(2, 3, 2, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("shift", [1.0, 5.0])
def test_euler_on_gaussians_converges_to_the_analytic_end_at_first_order(noise, shift):
    errors = []
    for steps in (50, 100, 200):
        end, _ = solve(gaussian_velocity, noise, sigmas=schedule(steps, shift).tolist())
        errors.append((end - (MEAN + SPREAD * noise)).abs().max().item())
    assert errors[-1] < 0.05
    assert [a / b for a, b in pairwise(errors)] == pytest.approx([2, 2], abs=0.3)


def test_one_euler_step_goes_straight(noise):
    end, states = solve(gaussian_velocity, noise, sigmas=(1.0, 0.0))
    torch.testing.assert_close(end, noise - gaussian_velocity(noise, torch.ones(2, 3)))
    assert states.shape == (2, 0, *noise.shape[1:])


def test_kept_states_lie_on_the_trajectory(noise):
    keep = (1.0, 0.9, 0.5, 0.123, 0.0)
    sigmas = schedule(400, 3.0).tolist()
    end, states = solve(gaussian_velocity, noise, sigmas=sigmas, keep=keep)
    assert states.shape == (2, 5, *noise.shape[1:])
    assert torch.equal(states[:, 0], noise) and torch.equal(states[:, -1], end)
    for i, level in enumerate(keep):
        torch.testing.assert_close(states[:, i], gaussian_state(noise, level), rtol=0, atol=0.02)


def test_held_frames_are_clean_to_the_velocity_and_stay_as_they_are(noise):
    asked = []

    def velocity(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        asked.append(sigma)
        return torch.ones_like(x)

    frames = torch.tensor([[True, False, False], [False, False, False]])
    v = held(velocity, frames)(noise, torch.full((2, 3), 0.7))
    assert torch.equal(asked[0], torch.where(frames, 0.0, 0.7))
    assert torch.equal(v, torch.where(frames, 0.0, 1.0)[..., None, None, None].to(v.dtype).expand_as(v))


def test_keeping_states_changes_nothing_and_follows_the_order_asked_for(noise):
    sigmas = schedule(7, 5.0).tolist()
    plain, _ = solve(gaussian_velocity, noise, sigmas=sigmas)
    end, states = solve(gaussian_velocity, noise, sigmas=sigmas, keep=(0.2, sigmas[3], 1.0))
    _, swapped = solve(gaussian_velocity, noise, sigmas=sigmas, keep=(1.0, sigmas[3], 0.2))
    assert torch.equal(end, plain)
    assert torch.equal(states, swapped.flip(1))


@pytest.mark.parametrize("at", [0, 2, 5])
def test_a_state_on_the_grid_is_the_solver_stopped_there(noise, at):
    sigmas = schedule(6, 5.0).tolist()
    _, states = solve(gaussian_velocity, noise, sigmas=sigmas, keep=(sigmas[at],))
    stopped = noise if at == 0 else solve(gaussian_velocity, noise, sigmas=sigmas[: at + 1])[0]
    torch.testing.assert_close(states[:, 0], stopped)


def test_a_state_between_two_levels_is_a_shorter_step_and_not_the_nearest_entry(noise):
    sigmas = schedule(4, 8.0).tolist()
    level = 0.5 * (sigmas[1] + sigmas[2])
    _, states = solve(gaussian_velocity, noise, sigmas=sigmas, keep=(level,))
    stopped, _ = solve(gaussian_velocity, noise, sigmas=(*sigmas[:2], level))
    torch.testing.assert_close(states[:, 0], stopped)


@pytest.mark.parametrize(
    ("sigmas", "keep", "message"),
    [
        ((1.0,), (), "two falling levels"),
        ((0.0, 1.0), (), "two falling levels"),
        ((1.0, 0.5, 0.5, 0.0), (), "two falling levels"),
        ((1.0, 0.0), (1.1,), "keep=1.1"),
        ((1.0, 0.2), (0.1,), "keep=0.1"),
    ],
)
def test_schedules_that_cannot_be_followed_are_refused(noise, sigmas, keep, message):
    with pytest.raises(ValueError, match=message):
        solve(gaussian_velocity, noise, sigmas=sigmas, keep=keep)


def test_solving_makes_no_graph():
    noise = torch.randn(1, 1, 1, 1, 1, requires_grad=True)
    end, states = solve(gaussian_velocity, noise, sigmas=(1.0, 0.5, 0.0), keep=(0.5,))
    assert not end.requires_grad and not states.requires_grad


def test_the_clean_estimate_is_the_conditional_mean(noise):
    sigma = torch.tensor([[0.1, 0.5, 0.9], [1.0, 0.3, 0.02]], dtype=torch.float64)
    s = sigma[..., None, None, None]
    gain = (1 - s) * SPREAD**2 / ((1 - s) ** 2 * SPREAD**2 + s**2)
    expected = MEAN + gain * (noise - (1 - s) * MEAN)
    torch.testing.assert_close(
        x0_from_velocity(noise, gaussian_velocity(noise, sigma), sigma), expected, rtol=0, atol=1e-5
    )


@pytest.fixture(scope="module")
def guided():
    """A model, its input, and the velocity under a prompt and under the null text."""
    config = TransformerConfig(dim=16, heads=2, layers=2, ffn_dim=24, text_dim=6, in_channels=4, out_channels=4)
    model, g = Transformer(config), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=g) * 0.3)
    model.requires_grad_(False)
    x, sigma = torch.randn(2, 4, 4, 2, 4, generator=g), torch.rand(2, 4, generator=g)
    text, null = (model.encode_text(torch.randn(2, 3, 6, generator=g)) for _ in range(2))
    v = Visibility(first=1, chunk=3)
    return model, x, sigma, text, null, v


@pytest.mark.parametrize("guidance", [0.0, 1.0, 2.5, 6.0])
def test_guidance_is_uncond_plus_g_times_the_difference(guided, guidance):
    model, x, sigma, text, null, v = guided
    cond, uncond = model(x, sigma, text, visibility=v), model(x, sigma, null, visibility=v)
    assert (cond - uncond).abs().max() > 0.01
    out = guided_velocity(model, text, null, guidance=guidance, visibility=v)(x, sigma)
    torch.testing.assert_close(out, uncond + guidance * (cond - uncond), rtol=1e-4, atol=1e-5)


def test_guidance_1_costs_one_pass(guided):
    model, x, sigma, text, null, _ = guided
    passes = []
    hook = model.register_forward_hook(lambda *_: passes.append(1))
    guided_velocity(model, text, null, guidance=1)(x, sigma)
    assert len(passes) == 1
    guided_velocity(model, text, null, guidance=3)(x, sigma)
    hook.remove()
    assert len(passes) == 3
