"""Rotary positions: relative, unlimited, and split among the axes as in Wan 2.1."""

import pytest
import torch

from causvid.nn.rope import Rotation, frame_shift, rotate, rotation


def at(*frames: int) -> torch.Tensor:
    return torch.tensor([frames])


def heads(tokens: int, head_dim: int, seed: int) -> torch.Tensor:
    return torch.randn(1, tokens, 2, head_dim, generator=torch.Generator().manual_seed(seed))


def scores(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    return torch.einsum("bqnk,blnk->bnql", query, key)


@pytest.mark.parametrize("head_dim", [4, 16, 22, 128])
@pytest.mark.parametrize("start", [1, 21, 1022, 5_000, 1_000_000])
def test_scores_depend_on_the_distance_in_time_alone(head_dim: int, start: int) -> None:
    height, width, frames = 2, 3, (0, 1, 4)
    q, k = (heads(3 * height * width, head_dim, seed) for seed in (0, 1))
    near = rotation(at(*frames), height, width, head_dim)
    far = rotation(at(*frames) + start, height, width, head_dim)
    torch.testing.assert_close(scores(rotate(q, far), rotate(k, far)), scores(rotate(q, near), rotate(k, near)))


@pytest.mark.parametrize("axis", [1, 2])
def test_scores_depend_on_the_distance_in_space_alone(axis: int) -> None:
    head_dim, grid = 24, (5, 7)
    q = heads(1, head_dim, 0)
    k = heads(1, head_dim, 1)
    angles = rotation(at(3), *grid, head_dim)

    def score(row: int, column: int, to_row: int, to_column: int) -> torch.Tensor:
        a, b = row * grid[1] + column, to_row * grid[1] + to_column
        one = [Rotation(angles.cos[:, i : i + 1], angles.sin[:, i : i + 1]) for i in (a, b)]
        return scores(rotate(q, one[0]), rotate(k, one[1]))

    here, step = (1, 2), (1, 0) if axis == 1 else (0, 1)
    moved = tuple(a + b for a, b in zip(here, step, strict=True))
    further = tuple(a + 2 * b for a, b in zip(here, step, strict=True))
    torch.testing.assert_close(score(*here, *moved), score(*moved, *further))
    assert not torch.allclose(score(*here, *moved), score(*here, *here))


def test_positions_beyond_any_table_still_tell_frames_apart() -> None:
    q, k = heads(1, 32, 0), heads(1, 32, 1)
    keys = [rotate(k, rotation(at(frame), 1, 1, 32)) for frame in (1_024, 1_025, 1_000_000, 1_000_001)]
    query = rotate(q, rotation(at(1_000_001), 1, 1, 32))
    seen = [scores(query, key).flatten() for key in keys]
    assert all(torch.isfinite(s).all() for s in seen)
    assert all(not torch.allclose(a, b, atol=1e-3) for i, a in enumerate(seen) for b in seen[:i])


@pytest.mark.parametrize("head_dim", [8, 32, 128])
@pytest.mark.parametrize("delta", [1, 9, 1_500, -4])
def test_shifting_rotated_keys_is_rotating_them_at_the_shifted_frame(head_dim: int, delta: int) -> None:
    k, frames = heads(2 * 6, head_dim, 0), at(4, 11)
    moved = rotate(rotate(k, rotation(frames, 2, 3, head_dim)), frame_shift(torch.tensor([delta]), head_dim))
    torch.testing.assert_close(moved, rotate(k, rotation(frames + delta, 2, 3, head_dim)), rtol=0, atol=1e-5)


def test_rows_of_a_batch_stand_and_move_each_by_itself() -> None:
    x, frames, shift = torch.cat([heads(2 * 6, 16, seed) for seed in (0, 1)]), at(0, 1), torch.tensor([3, 70])
    frames = torch.cat((frames, frames + 9))
    together = rotate(x, rotation(frames, 2, 3, 16))
    moved = rotate(together, frame_shift(shift, 16))
    for row in range(2):
        one = slice(row, row + 1)
        assert torch.equal(together[one], rotate(x[one], rotation(frames[one], 2, 3, 16)))
        assert torch.equal(moved[one], rotate(together[one], frame_shift(shift[one], 16)))


def test_rotation_keeps_lengths_and_leaves_the_origin_alone() -> None:
    x = heads(6, 16, 0)
    turned = rotate(x, rotation(at(77), 2, 3, 16))
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(rotate(x[:, :1], rotation(at(0), 1, 1, 16)), x[:, :1])


@pytest.mark.parametrize("head_dim", [10, 12, 20, 128])
@pytest.mark.parametrize(("frames", "height", "width"), [(3, 3, 5), (2, 7, 4)])
def test_angles_are_those_of_wan(head_dim: int, frames: int, height: int, width: int) -> None:
    from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed

    theirs = WanRotaryPosEmbed(head_dim, (1, 2, 2), 1024)
    cos, sin = theirs(torch.empty(1, 16, frames, 2 * height, 2 * width))
    ours = rotation(at(*range(frames)), height, width, head_dim)
    torch.testing.assert_close(ours.cos[0], cos[0, :, 0, ::2].float(), rtol=0, atol=1e-6)
    torch.testing.assert_close(ours.sin[0], sin[0, :, 0, 1::2].float(), rtol=0, atol=1e-6)


def test_impossible_rotations_are_refused() -> None:
    with pytest.raises(ValueError, match="head_dim=7"):
        rotation(at(0), 2, 2, 7)
    with pytest.raises(ValueError, match="frames"):
        rotation(at(), 2, 2, 8)
