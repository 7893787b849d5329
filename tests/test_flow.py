"""The straight path between data and noise, and the levels along it."""

import pytest
import torch

from causvid.flow import (
    add_noise,
    check_few_steps,
    noise_from_velocity,
    randn_like,
    sample_logit_normal,
    sample_sigma,
    sample_timestep_sigma,
    schedule,
    shift_sigma,
    spread_steps,
    velocity_from_x0,
    velocity_target,
    warped_steps,
    x0_from_velocity,
)

CPU = torch.device("cpu")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=[(3,), (3, 5)], ids=["sigma a clip", "sigma a frame"])
def path(request):
    """x0, noise and levels, with sigma `[B]` or `[B, F]`."""
    g = seeded(0)
    x0, noise = torch.randn(2, 3, 5, 4, 6, 10, generator=g)
    return x0, noise, 0.05 + 0.95 * torch.rand(request.param, generator=g)


def test_x0_and_noise_come_back_from_velocity(path):
    x0, noise, sigma = path
    x, v = add_noise(x0, noise, sigma), velocity_target(x0, noise)
    torch.testing.assert_close(x0_from_velocity(x, v, sigma), x0, rtol=0, atol=2e-6)
    torch.testing.assert_close(noise_from_velocity(x, v, sigma), noise, rtol=0, atol=2e-6)


def test_velocity_comes_back_from_x0(path):
    x0, noise, sigma = path
    x = add_noise(x0, noise, sigma)
    v = torch.randn(x.shape, generator=seeded(1))
    torch.testing.assert_close(velocity_from_x0(x, x0_from_velocity(x, v, sigma), sigma), v, rtol=0, atol=5e-5)
    torch.testing.assert_close(velocity_from_x0(x, x0, sigma), noise - x0, rtol=0, atol=5e-5)


def test_velocity_is_the_slope_of_the_path(path):
    x0, noise, sigma = (t.double() for t in path)
    slope = (add_noise(x0, noise, sigma + 1e-3) - add_noise(x0, noise, sigma - 1e-3)) / 2e-3
    torch.testing.assert_close(slope, velocity_target(x0, noise), rtol=0, atol=1e-9)


def test_the_path_starts_at_data_and_ends_at_noise(path):
    x0, noise, _ = path
    assert torch.equal(add_noise(x0, noise, torch.zeros(3, 5)), x0)
    assert torch.equal(add_noise(x0, noise, torch.ones(3, 5)), noise)


def test_a_level_touches_its_own_frame_only():
    x0, noise = torch.randn(2, 1, 3, 2, 2, 2, generator=seeded(0))
    x = add_noise(x0, noise, torch.tensor([[0.0, 0.5, 1.0]]))
    torch.testing.assert_close(x, torch.stack((x0[:, 0], (x0[:, 1] + noise[:, 1]) / 2, noise[:, 2]), dim=1))


def test_conversions_of_bfloat16_are_computed_in_fp32():
    x, v = torch.randn(2, 1, 2, 4, 8, 8, generator=seeded(0)).bfloat16()
    sigma = torch.tensor([[0.9371, 0.0213]])
    s = sigma[..., None, None, None]
    assert torch.equal(x0_from_velocity(x, v, sigma), (x.float() - s * v.float()).bfloat16())
    assert torch.equal(noise_from_velocity(x, v, sigma), (x.float() + (1 - s) * v.float()).bfloat16())
    assert add_noise(x, v, sigma).dtype == torch.bfloat16


def test_published_few_steps_are_entries_of_the_shift_8_schedule():
    levels = schedule(50, 8.0)
    assert [round(1000 * levels[i].item()) for i in (0, 36, 44)] == [1000, 757, 522]


@pytest.mark.parametrize(
    ("shift", "expected"), [(8.0, (1000, 960, 888.8889, 727.2727)), (5.0, (1000, 937.5, 833.3333, 625))]
)
def test_published_four_steps_are_the_nominal_ones_warped(shift, expected):
    steps = warped_steps((1000, 750, 500, 250), shift)
    assert [1000 * s for s in steps] == pytest.approx(expected, abs=1e-4)
    assert list(steps) == pytest.approx(spread_steps(4, shift), abs=1e-6)
    check_few_steps(steps)


@pytest.mark.parametrize(("steps", "shift"), [(1, 8.0), (4, 1.0), (50, 8.0), (50, 5.0), (1000, 3.0)])
def test_a_schedule_falls_from_exactly_1_to_exactly_0(steps, shift):
    levels = schedule(steps, shift)
    assert levels.shape == (steps + 1,) and levels.dtype == torch.float32
    assert levels[0] == 1 and levels[-1] == 0 and (levels.diff() < 0).all()
    assert spread_steps(steps, shift) == tuple(levels[:-1].tolist())


@pytest.mark.parametrize("nominal", [1, 8, 333.25, 999.9])
def test_warping_snaps_to_no_grid(nominal):
    u = nominal / 1000
    assert warped_steps((nominal,), 8.0)[0] == pytest.approx(8 * u / (1 + 7 * u), rel=1e-12)


def test_shift_keeps_both_ends_and_is_undone_by_its_inverse():
    u = torch.linspace(0, 1, 101, dtype=torch.float64)
    assert shift_sigma(u, 8.0)[0] == 0 and shift_sigma(u, 8.0)[-1] == 1
    torch.testing.assert_close(shift_sigma(u, 1.0), u)
    torch.testing.assert_close(shift_sigma(shift_sigma(u, 8.0), 1 / 8), u)
    assert (shift_sigma(u, 8.0)[1:-1] > u[1:-1]).all()


@pytest.mark.parametrize("sigmas", [(), (0.9, 0.5), (1.0, 0.5, 0.0), (1.0, 0.5, 0.5), (1.0, 0.5, 0.7), (1000.0, 750.0)])
def test_few_step_lists_that_cannot_work_are_refused(sigmas):
    with pytest.raises(ValueError, match="sigmas="):
        check_few_steps(sigmas)


def test_impossible_shifts_and_step_counts_are_refused():
    with pytest.raises(ValueError, match="shift=0"):
        shift_sigma(torch.ones(1), 0.0)
    with pytest.raises(ValueError, match="steps=0"):
        schedule(0, 8.0)


@pytest.mark.parametrize("sample", [sample_sigma, sample_logit_normal, sample_timestep_sigma])
def test_sampled_levels_depend_on_the_generator_alone(sample):
    draw = [sample((64,), shift=5.0, generator=seeded(seed), device=CPU) for seed in (1, 1, 2)]
    assert torch.equal(draw[0], draw[1]) and not torch.equal(draw[0], draw[2])
    assert draw[0].dtype == torch.float32 and draw[0].min() >= 0 and draw[0].max() <= 1


@pytest.mark.parametrize("sample", [sample_sigma, sample_logit_normal])
def test_half_of_the_sampled_levels_lie_above_the_shifted_middle(sample):
    sigma = sample((20_000,), shift=5.0, generator=seeded(0), device=CPU)
    assert (sigma > 5 * 0.5 / (1 + 4 * 0.5)).float().mean().item() == pytest.approx(0.5, abs=0.02)


def test_logit_normal_levels_crowd_the_middle():
    share = [
        ((s > 0.25) & (s < 0.75)).float().mean().item()
        for s in (f((20_000,), shift=1.0, generator=seeded(0), device=CPU) for f in (sample_sigma, sample_logit_normal))
    ]
    assert share == pytest.approx([0.5, 0.728], abs=0.02)  # P(|N(0, 1)| < ln 3) = 0.728


def test_levels_of_distribution_matching_are_shifted_thousandths_clamped_inwards():
    sigma = sample_timestep_sigma((20_000,), shift=8.0, generator=seeded(0), device=CPU).double()
    assert sigma.min().item() == pytest.approx(0.02) and sigma.max().item() == pytest.approx(0.98)
    inner = sigma[(sigma > 0.021) & (sigma < 0.979)]
    nominal = 1000 * shift_sigma(inner, 1 / 8)
    torch.testing.assert_close(nominal, nominal.round(), rtol=0, atol=1e-3)
    assert len(nominal.round().unique()) > 800


def test_noise_ignores_the_global_seed():
    x = torch.empty(2, 3, dtype=torch.bfloat16)
    torch.manual_seed(1)
    first = randn_like(x, seeded(7))
    torch.manual_seed(2)
    assert torch.equal(first, randn_like(x, seeded(7)))
    assert first.dtype == x.dtype and first.shape == x.shape
