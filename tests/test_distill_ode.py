"""The regression loss and the levels it is trained at."""

import pytest
import torch

from causvid.distill import draw_chunk_levels, gather_states, ode_loss

SHAPE = (2, 4, 3, 6, 10)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_with_noise_everywhere_it_is_the_mean_squared_error():
    x0, clean = torch.randn(2, *SHAPE, generator=seeded())
    loss = ode_loss(x0, clean, torch.full(SHAPE[:2], 0.3))
    torch.testing.assert_close(loss, (x0 - clean).square().mean())


def test_frames_that_were_given_clean_are_left_out():
    x0, clean = torch.randn(2, *SHAPE, generator=seeded())
    x0.requires_grad_()
    sigma = torch.tensor([[0.0, 0.5, 0.5, 0.02], [1.0, 0.0, 0.0, 0.7]])
    loss = ode_loss(x0, clean, sigma)
    loss.backward()
    noisy = sigma > 0
    torch.testing.assert_close(loss.detach(), (x0 - clean)[noisy].square().mean().detach())
    assert x0.grad[~noisy].abs().max() == 0
    assert (x0.grad[noisy].abs().amax(dim=(1, 2, 3)) > 0).all()


def test_with_nothing_left_the_loss_is_zero_and_so_is_its_gradient():
    x0 = torch.randn(SHAPE, generator=seeded(), requires_grad=True)
    loss = ode_loss(x0, torch.zeros(SHAPE), torch.zeros(SHAPE[:2]))
    loss.backward()
    assert loss == 0 and x0.grad.abs().max() == 0


@pytest.mark.parametrize("layout", [(1, 3, 3), (2, 2, 2, 2)])
def test_levels_are_one_draw_a_chunk_and_independent_between_chunks(layout):
    index = draw_chunk_levels(layout, batch=4000, levels=4, generator=seeded())
    assert index.shape == (4000, sum(layout)) and index.dtype == torch.int64
    assert torch.equal(index, draw_chunk_levels(layout, batch=4000, levels=4, generator=seeded()))
    chunks = index.split(layout, dim=1)
    assert all((c == c[:, :1]).all() for c in chunks)
    share = torch.stack([torch.bincount(c[:, 0], minlength=4) for c in chunks]) / 4000
    torch.testing.assert_close(share, torch.full_like(share, 0.25), rtol=0, atol=0.03)  # both ends are drawn
    together = (chunks[0][:, 0] == chunks[1][:, 0]).float().mean().item()
    assert together == pytest.approx(0.25, abs=0.03)


def test_chunks_before_a_drawn_one_are_clean_in_the_asked_share_of_clips():
    layout = (1, 3, 3)
    firsts = [
        draw_chunk_levels(layout, batch=4000, levels=5, generator=seeded(), clean_past=share)[:, [0, 1, 4]]
        for share in (0.0, 0.5, 1.0)
    ]
    plain, half, always = ((index[:, :2] == 4).all(dim=1).float().mean().item() for index in firsts)
    assert plain == pytest.approx(1 / 25, abs=0.02)
    # A third of the clips draws the last chunk, a third the middle one, before which chance must make one chunk clean.
    assert always == pytest.approx(1 / 3 + 1 / 3 / 5 + 1 / 3 / 25, abs=0.03)
    assert half == pytest.approx((plain + always) / 2, abs=0.03)
    last = torch.stack([torch.bincount(index[:, 2], minlength=5) for index in firsts]) / 4000
    torch.testing.assert_close(last, torch.full_like(last, 0.2), rtol=0, atol=0.03)  # the last chunk has no future


def test_every_frame_takes_the_state_of_its_own_level():
    trajectory = torch.randn(2, 5, 4, 3, 6, 10, generator=seeded())
    index = torch.randint(5, (2, 4), generator=seeded())
    states = gather_states(trajectory, index)
    assert states.shape == (2, 4, 3, 6, 10)
    assert all(torch.equal(states[b, f], trajectory[b, index[b, f], f]) for b in range(2) for f in range(4))
