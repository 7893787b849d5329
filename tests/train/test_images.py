"""First chunks that are given clean, from which teacher and student learn to go on from an image."""

from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from causvid.distill.dmd import critic_loss, student_loss
from causvid.flow import flow_matching_loss
from causvid.train import dmd, teacher
from causvid.data.clips import ClipStore
from causvid.train.dmd import dmd_stage
from causvid.train.loop import Run
from causvid.train.pairs import PairStore, pairs_stage
from causvid.train.teacher import given_frames, teacher_stage

CPU = torch.device("cpu")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def is_from(store: ClipStore, first: torch.Tensor) -> bool:
    """Tell whether the store has a clip with this first chunk `[f, C, h, w]`."""
    return bool((store.latents[:, : len(first)] == first.half()).flatten(1).all(dim=1).any())


def test_first_chunks_are_given_in_the_asked_share_of_clips_that_go_on_after_them():
    clips = torch.zeros(2000, 4, 1)
    given = given_frames(clips, share=0.3, first=2, generator=seeded())
    assert given[:, 0].float().mean().item() == pytest.approx(0.3, abs=0.04)
    assert torch.equal(given[:, 0], given[:, 1]) and not given[:, 2:].any()
    assert not given_frames(clips, share=1.0, first=4, generator=seeded()).any()
    generator = seeded()
    assert not given_frames(clips, share=0.0, first=2, generator=generator).any()
    assert torch.equal(generator.get_state(), seeded().get_state()), "nothing is drawn for a share of 0"


def test_given_frames_count_in_no_loss_and_get_no_gradient():
    x0, noise, wrong = torch.randn(3, 2, 4, 3, 4, 4, generator=seeded())
    sigma = torch.tensor([[0.0, 0.5, 0.5, 0.5], [0.7, 0.7, 0.7, 0.7]])
    given = (sigma == 0)[..., None, None, None]
    velocity = torch.where(given, wrong, noise - x0)
    assert flow_matching_loss(velocity, x0, noise, sigma) == 0
    assert critic_loss(x0, critic=lambda x, s: velocity, sigma=sigma, noise=noise) == 0
    x0.requires_grad_()
    loss = student_loss(x0, teacher=lambda x, s: wrong, critic=lambda x, s: 2 * wrong, sigma=sigma, noise=noise)
    (gradient,) = torch.autograd.grad(loss, x0)
    assert gradient[0, 0].abs().max() == 0 and (gradient.flatten(2).abs().amax(dim=2)[~given[..., 0, 0, 0]] > 0).all()


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_teacher_is_trained_to_go_on_from_clean_first_chunks(share, chain, changed, monkeypatch):
    preset = changed("teacher", image=share, phases=[{"frames": 4, "batch": 6, "until": 1.0}])
    seen: dict[str, Any] = {}
    add_noise = teacher.add_noise

    def look(x0: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        seen.update(x0=x0, sigma=sigma, x=add_noise(x0, noise, sigma))
        return seen["x"]

    monkeypatch.setattr(teacher, "add_noise", look)
    teacher_stage(preset, chain.run()).step(0)
    first = preset.generation.first
    assert (seen["sigma"][:, first:] > 0).all()
    assert (
        (seen["sigma"][:, :first] == 0).all() == torch.equal(seen["x"][:, :first], seen["x0"][:, :first]) == (share > 0)
    )


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_trajectories_go_on_from_first_chunks_of_the_store(share, chain, changed, tmp_path):
    folder = chain.copy(tmp_path / "run", without=("pairs",))
    (folder / "pairs").mkdir(exist_ok=True)
    pairs_stage(changed("pairs", image=share), Run(folder)).step(0)
    trajectory = load_file(folder / "pairs" / "pairs_0000.safetensors")["trajectory"]
    first, store = chain.preset.generation.first, ClipStore.open(chain.preset, chain.run())
    for clip in trajectory:
        still = [bool((clip[0, f] == clip[-1, f]).all()) for f in range(clip.shape[1])]
        assert still == [share > 0] * first + [False] * (len(still) - first)
        assert is_from(store, clip[-1, :first]) == (share > 0)


def test_a_frame_that_was_given_is_drawn_at_the_clean_level_whatever_was_asked():
    trajectory = torch.randn(1, 4, 3, 2, 1, 1, generator=seeded()).repeat(2, 1, 1, 1, 1, 1)
    trajectory[0, :, 0] = trajectory[0, -1, 0]
    store = PairStore(trajectory.half(), torch.arange(2)[:, None].int())
    asked = torch.ones(40, 3, dtype=torch.int64)
    x, clean, index, ids = store.draw(asked, seeded(), CPU)
    given = ids[:, 0] == 0
    assert 0 < given.sum() < 40
    assert torch.equal(index, torch.where(given[:, None], torch.tensor([3, 1, 1]), asked))
    assert torch.equal(x[given, 0], clean[given, 0]) and not torch.equal(x[~given, 0], clean[~given, 0])


@pytest.mark.parametrize("student_input", ["data", "rollout"])
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_student_goes_on_from_real_first_chunks_and_all_judge_it_with_them(
    share, student_input, chain, changed, monkeypatch
):
    calls: list[tuple[torch.Tensor, torch.Tensor]] = []

    def watched(loss: Any) -> Any:
        def judge(x0: torch.Tensor, **options: Any) -> torch.Tensor:
            calls.append((x0.detach(), options["sigma"]))
            return loss(x0, **options)

        return judge

    monkeypatch.setattr(dmd, "critic_loss", watched(dmd.critic_loss))
    monkeypatch.setattr(dmd, "student_loss", watched(dmd.student_loss))
    preset = changed("dmd", image=share, student_input=student_input, critic_updates=1)
    dmd_stage(preset, chain.run()).step(0)
    first, store = preset.generation.first, ClipStore.open(preset, chain.run())
    assert len(calls) == 2
    for x0, sigma in calls:
        assert x0.shape[1] == preset.generation.clip_frames
        assert [is_from(store, clip[:first]) for clip in x0] == [share > 0] * len(x0)
        assert not any(is_from(store, clip) for clip in x0)
        assert (sigma[:, first:] > 0).all() and (sigma[:, :first] == 0).all() == (share > 0)
