"""The weighted total is the published one; measures of frames move with the damage they are for."""

from pathlib import Path

import pytest
import torch

from causvid.evaluate import measures
from causvid.evaluate.vbench import DIMENSIONS, score_folder, score_video, split, totals
from causvid.media import VideoWriter

# Percent, in the order of DIMENSIONS, then quality, semantic and total score, as printed in table 8 of Show-o2
# (arXiv:2506.15564v3), which quotes VBench's leaderboard. Table 11 of T2V-Turbo-v2 (arXiv:2410.05677v3) prints the same
# of VideoCrafter-2.0 and Gen-3. HunyuanVideo is in table 1 of VideoAR (arXiv:2601.05966v2), which agrees on the others.
PUBLISHED = {
    "VideoCrafter-2.0": (
        "96.85 98.22 98.41 97.73 42.50 63.13 67.22 92.55 40.66 95.00 92.92 35.86 55.29 25.13 25.84 28.23",
        (82.20, 73.42, 80.44),
    ),
    "Gen-3": (
        "97.10 96.62 98.61 99.23 60.14 63.34 66.82 87.81 53.64 96.40 80.90 65.09 54.57 24.31 24.71 26.69",
        (84.11, 75.17, 82.32),
    ),
    "CogVideoX-5B": (
        "96.23 96.52 98.66 96.92 70.97 61.98 62.90 85.23 62.11 99.40 82.81 66.35 53.20 24.91 25.38 27.59",
        (82.75, 77.04, 81.61),
    ),
    "HunyuanVideo": (
        "97.37 97.76 99.44 98.99 70.83 60.36 67.56 86.10 68.55 94.40 91.60 68.68 53.88 19.80 23.89 26.44",
        (85.09, 75.82, 83.24),
    ),
}


def moving(frames: int = 24, speed: int = 2) -> torch.Tensor:
    """A textured square that moves right over a textured ground, uint8 [T, 64, 96, 3]."""
    generator = torch.Generator().manual_seed(0)
    ground = torch.randint(90, 120, (64, 96, 3), generator=generator)
    square = torch.randint(150, 250, (16, 16, 3), generator=generator)
    video = ground.expand(frames, -1, -1, -1).clone()
    for t in range(frames):
        video[t, 24:40, 4 + speed * t : 20 + speed * t] = square
    return video.to(torch.uint8)


@pytest.mark.parametrize("model", PUBLISHED)
def test_totals_are_the_published_ones(model: str) -> None:
    percents, printed = PUBLISHED[model]
    scores = {name: float(value) / 100 for name, value in zip(DIMENSIONS, percents.split(), strict=True)}
    found = totals(scores)
    assert [100 * found.quality, 100 * found.semantic, 100 * found.total] == pytest.approx(printed, abs=0.01)
    with pytest.raises(ValueError, match="not so color"):
        totals({name: value for name, value in scores.items() if name != "color"})
    with pytest.raises(ValueError, match=r"color=82\.81: expected 0 to 1"):
        totals(scores | {"color": 82.81})


def test_block_matching_finds_the_displacement() -> None:
    flow = measures.optical_flow(moving(speed=2))
    assert flow[:, 4, 2].tolist().count([0.0, 2.0]) >= 2 and float(flow.abs().amax()) <= measures.REACH
    assert not measures.optical_flow(moving(speed=0)).any()
    assert float(measures.motion(moving(speed=2), fps=8).mean()) == pytest.approx(2 * 8 / 64, rel=0.3)


def test_each_measure_moves_with_its_damage() -> None:
    video = moving()
    plain = score_video(video, fps=8)
    flickering = video.clone()
    flickering[::2] = (flickering[::2].float() * 0.8).to(torch.uint8)
    assert score_video(flickering, fps=8)["temporal_flickering"] < plain["temporal_flickering"] - 0.02
    assert score_video(flickering, fps=8)["motion_smoothness"] < plain["motion_smoothness"] - 0.02
    frozen = video[:1].expand_as(video)
    assert plain["dynamic_degree"] == 1 and score_video(frozen, fps=8)["dynamic_degree"] == 0
    fading = (video.float() * torch.linspace(1, 0.5, len(video))[:, None, None, None]).to(torch.uint8)
    still, faded = (measures.drift(one, edge=4) for one in (video, fading))
    assert faded["colour"] > 10 * still["colour"] and faded["contrast"] < still["contrast"] - 0.2


def test_borders_and_first_frames() -> None:
    video = moving()
    seam = video.clone()
    seam[9:] += 5
    assert measures.border_flicker(seam, [9]) > 2 * measures.border_flicker(video, [9])
    assert measures.first_frame_fidelity(video, video[0]) == pytest.approx(100)
    assert measures.first_frame_fidelity(video, video[0] + 1) == pytest.approx(48.13, abs=0.01)


@pytest.mark.parametrize("frames, sizes", [(7, [7]), (16, [16]), (39, [16, 23]), (47, [16, 16, 15])])
def test_long_videos_are_split_whole(frames: int, sizes: list[int]) -> None:
    clips = list(split(torch.arange(frames)[:, None], fps=8))
    assert torch.cat(clips).flatten().tolist() == list(range(frames))
    assert [len(clip) for clip in clips] == sizes


def test_a_folder_of_any_videos_is_scored(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no videos"):
        score_folder(tmp_path)
    with VideoWriter(tmp_path / "a-0.mkv", fps=8, height=64, width=96) as writer:
        writer.write(moving(33, speed=2).numpy())
    (scores,) = score_folder(tmp_path).values()
    assert scores["dynamic_degree"] == 1 and scores["drift_colour"] < 0.01
