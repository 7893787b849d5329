"""Rotary positions: relative, unlimited, and split among the axes as in Wan 2.1."""

import pytest
import torch

from causvid.nn.rope import Rotation, frame_shift, rotate, rotation

CPU = torch.device("cpu")


def heads(tokens: int, head_dim: int, seed: int) -> torch.Tensor:
    return torch.randn(1, tokens, 2, head_dim, generator=torch.Generator().manual_seed(seed))


def scores(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    return torch.einsum("bqnk,blnk->bnql", query, key)


@pytest.mark.parametrize("head_dim", [4, 16, 22, 128])
@pytest.mark.parametrize("start", [1, 21, 1022, 5_000, 1_000_000])
def test_scores_depend_on_the_distance_in_time_alone(head_dim, start):
    height, width, frames = 2, 3, (0, 1, 4)
    q, k = (heads(3 * height * width, head_dim, seed) for seed in (0, 1))
    near = rotation(frames, height, width, head_dim, CPU)
    far = rotation([f + start for f in frames], height, width, head_dim, CPU)
    torch.testing.assert_close(scores(rotate(q, far), rotate(k, far)), scores(rotate(q, near), rotate(k, near)))


@pytest.mark.parametrize("axis", [1, 2])
def test_scores_depend_on_the_distance_in_space_alone(axis):
    head_dim, grid = 24, (5, 7)
    q = heads(1, head_dim, 0)
    k = heads(1, head_dim, 1)
    angles = rotation([3], *grid, head_dim, CPU)

    def score(row: int, column: int, to_row: int, to_column: int) -> torch.Tensor:
        a, b = row * grid[1] + column, to_row * grid[1] + to_column
        one = [Rotation(angles.cos[i : i + 1], angles.sin[i : i + 1]) for i in (a, b)]
        return scores(rotate(q, one[0]), rotate(k, one[1]))

    here, step = (1, 2), (1, 0) if axis == 1 else (0, 1)
    moved = tuple(a + b for a, b in zip(here, step, strict=True))
    further = tuple(a + 2 * b for a, b in zip(here, step, strict=True))
    torch.testing.assert_close(score(*here, *moved), score(*moved, *further))
    assert not torch.allclose(score(*here, *moved), score(*here, *here))


def test_positions_beyond_any_table_still_tell_frames_apart():
    q, k = heads(1, 32, 0), heads(1, 32, 1)
    at = {f: rotate(k, rotation([f], 1, 1, 32, CPU)) for f in (1_024, 1_025, 1_000_000, 1_000_001)}
    query = rotate(q, rotation([1_000_001], 1, 1, 32, CPU))
    seen = [scores(query, key).flatten() for key in at.values()]
    assert all(torch.isfinite(s).all() for s in seen)
    assert all(not torch.allclose(a, b, atol=1e-3) for i, a in enumerate(seen) for b in seen[:i])


@pytest.mark.parametrize("head_dim", [8, 32, 128])
@pytest.mark.parametrize("delta", [1, 9, 1_500, -4])
def test_shifting_rotated_keys_is_rotating_them_at_the_shifted_frame(head_dim, delta):
    k, frames = heads(2 * 6, head_dim, 0), (4, 11)
    moved = rotate(rotate(k, rotation(frames, 2, 3, head_dim, CPU)), frame_shift(delta, head_dim, CPU))
    torch.testing.assert_close(
        moved, rotate(k, rotation([f + delta for f in frames], 2, 3, head_dim, CPU)), rtol=0, atol=1e-5
    )


def test_rotation_keeps_lengths_and_leaves_the_origin_alone():
    x = heads(6, 16, 0)
    turned = rotate(x, rotation([77], 2, 3, 16, CPU))
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(rotate(x[:, :1], rotation([0], 1, 1, 16, CPU)), x[:, :1])


@pytest.mark.parametrize("head_dim", [10, 12, 20, 128])
@pytest.mark.parametrize(("frames", "height", "width"), [(3, 3, 5), (2, 7, 4)])
def test_angles_are_those_of_wan(head_dim, frames, height, width):
    from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed

    theirs = WanRotaryPosEmbed(head_dim, (1, 2, 2), 1024)
    cos, sin = theirs(torch.empty(1, 16, frames, 2 * height, 2 * width))
    ours = rotation(range(frames), height, width, head_dim, CPU)
    torch.testing.assert_close(ours.cos, cos[0, :, 0, ::2].float(), rtol=0, atol=1e-6)
    torch.testing.assert_close(ours.sin, sin[0, :, 0, 1::2].float(), rtol=0, atol=1e-6)


def test_impossible_rotations_are_refused():
    with pytest.raises(ValueError, match="head_dim=7"):
        rotation([0], 2, 2, 7, CPU)
    with pytest.raises(ValueError, match="frames"):
        rotation([], 2, 2, 8, CPU)
