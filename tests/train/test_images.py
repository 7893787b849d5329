"""Clean first chunks, from which teacher and student learn to continue an image."""

from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from causvid.data.storybook import StorybookDataset
from causvid.distill import critic_loss, draw_clean_first, student_loss
from causvid.flow import flow_matching_loss
from causvid.train import dmd, teacher
from causvid.train.loop import take_step
from causvid.train.ode import TrajectoryStore, pairs_stage
from causvid.train.roles import Roles
from causvid.train.run import Run

CPU = torch.device("cpu")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def store(chain) -> StorybookDataset:
    dataset = Roles(chain.preset, chain.run()).dataset()
    assert isinstance(dataset, StorybookDataset)
    return dataset


def is_from(store: StorybookDataset, first: torch.Tensor) -> bool:
    """Tell whether the store has a clip with this first chunk `[f, C, h, w]`."""
    return bool((store.latents[:, : len(first)] == first.half()).flatten(1).all(dim=1).any())


def test_first_chunks_are_clean_in_the_asked_share_of_longer_clips():
    def draw(share: float, first: int, generator: torch.Generator) -> torch.Tensor:
        return draw_clean_first(2000, 4, first=first, share=share, generator=generator, device=CPU)

    clean = draw(0.3, 2, seeded())
    assert clean[:, 0].float().mean().item() == pytest.approx(0.3, abs=0.04)
    assert torch.equal(clean[:, 0], clean[:, 1]) and not clean[:, 2:].any()
    assert not draw(1.0, 4, seeded()).any()
    generator = seeded()
    assert not draw(0.0, 2, generator).any()
    assert torch.equal(generator.get_state(), seeded().get_state()), "nothing is drawn for a share of 0"


def test_clean_frames_count_in_no_loss_and_get_no_gradient():
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
def test_the_teacher_is_trained_to_continue_clean_first_chunks(share, chain, changed, monkeypatch):
    preset = changed("teacher", image=share, phases=[{"frames": 4, "batch": 6, "until": 1.0}])
    seen: dict[str, Any] = {}
    add_noise = teacher.add_noise

    def look(x0: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        seen.update(x0=x0, sigma=sigma, x=add_noise(x0, noise, sigma))
        return seen["x"]

    monkeypatch.setattr(teacher, "add_noise", look)
    chain.step(chain.build("teacher", preset))
    first = preset.generation.first
    assert (seen["sigma"][:, first:] > 0).all()
    assert (
        (seen["sigma"][:, :first] == 0).all() == torch.equal(seen["x"][:, :first], seen["x0"][:, :first]) == (share > 0)
    )


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_trajectories_continue_first_chunks_of_the_store(share, chain, changed, store, tmp_path):
    folder = chain.copy(tmp_path / "run", without=("pairs",))
    (folder / "pairs").mkdir(exist_ok=True)
    run, first = Run(folder), chain.preset.generation.first
    take_step(pairs_stage(changed("pairs", image=share), run), run, 0)
    trajectory = load_file(folder / "pairs" / "shard_0000.safetensors")["trajectory"]
    for clip in trajectory:
        still = [bool((clip[0, f] == clip[-1, f]).all()) for f in range(clip.shape[1])]
        assert still == [share > 0] * first + [False] * (len(still) - first)
        assert is_from(store, clip[-1, :first]) == (share > 0)


def test_a_clean_frame_is_drawn_at_the_clean_level_whatever_was_asked():
    trajectory = torch.randn(1, 4, 3, 2, 1, 1, generator=seeded()).repeat(2, 1, 1, 1, 1, 1)
    trajectory[0, :, 0] = trajectory[0, -1, 0]
    store = TrajectoryStore(trajectory.half(), ["continued", "free"], torch.arange(2))
    asked = torch.ones(40, 3, dtype=torch.int64)
    x, end, index, captions = store.draw(asked, seeded())
    given = captions == 0
    assert 0 < given.sum() < 40
    assert torch.equal(index, torch.where(given[:, None], torch.tensor([3, 1, 1]), asked))
    assert torch.equal(x[given, 0], end[given, 0]) and not torch.equal(x[~given, 0], end[~given, 0])


@pytest.mark.parametrize("student_input", ["data", "rollout"])
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_student_continues_real_first_chunks_and_is_judged_with_them(
    share, student_input, chain, changed, store, monkeypatch
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
    chain.step(chain.build("dmd", preset))
    first = preset.generation.first
    assert len(calls) == 2
    for x0, sigma in calls:
        assert x0.shape[1] == preset.generation.clip_frames
        assert [is_from(store, clip[:first]) for clip in x0] == [share > 0] * len(x0)
        assert not any(is_from(store, clip) for clip in x0)
        assert (sigma[:, first:] > 0).all() and (sigma[:, :first] == 0).all() == (share > 0)
