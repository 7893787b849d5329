"""A folder of latents and captions is drawn from evenly, cut at whole chunks, and refused in one line."""

import os
from pathlib import Path

import pytest
import torch

from causvid.config import GenerationConfig
from causvid.data.latent_folder import LatentFolder
from causvid.engine.latents import save_latents
from causvid.preset import load_preset

SIZE, CPU = (2, 3, 5), torch.device("cpu")
GENERATION = load_preset("test").generation  # clips of 4 latent frames, chunks [1, 3], 8 frames a second


def write(folder: Path, name: str, frames: int, *, caption: str = "a red fish", fps: float = 8.0) -> torch.Tensor:
    """Write latents whose values tell the file and the frame."""
    folder.mkdir(exist_ok=True)
    latents = (100 * len(list(folder.glob("*.safetensors"))) + torch.arange(frames).float())[None, :, None, None, None]
    latents = latents.expand(1, -1, *SIZE).contiguous()
    save_latents(folder / f"{name}.safetensors", latents, fps=fps)
    (folder / f"{name}.txt").write_text(caption, encoding="utf-8")
    return latents


def open_folder(folder: Path, generation: GenerationConfig = GENERATION) -> LatentFolder:
    return LatentFolder.open(folder, generation, size=SIZE, device=CPU)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_batches_reach_every_file_with_its_caption(tmp_path: Path) -> None:
    for name, caption in (("a", " a  red\nfish "), ("b", "a blue cat"), ("c", "a red fish")):
        write(tmp_path / "set", name, 4, caption=caption)
    dataset = open_folder(tmp_path / "set")
    assert list(dataset.captions) == ["a red fish", "a blue cat"]
    batch = dataset.batch(300, frames=4, generator=seeded())
    assert batch.latents.shape == (300, 4, *SIZE) and batch.latents.dtype == torch.float32
    file = batch.latents[:, 0, 0, 0, 0] // 100
    assert torch.bincount(file.int()).tolist() == pytest.approx([100, 100, 100], abs=25)
    assert torch.equal(batch.captions, (file == 1).long())


def test_clips_begin_at_whole_chunks_and_reach_the_end(tmp_path: Path) -> None:
    write(tmp_path / "set", "long", 12)
    batch = open_folder(tmp_path / "set").batch(200, frames=2, generator=seeded())
    starts = batch.latents[:, 0, 0, 0, 0]
    assert set(starts.tolist()) == {0.0, 3.0, 6.0}  # a clip of 4 frames from frame 9 on would end after the file
    assert torch.equal(batch.latents[:, 1, 0, 0, 0], starts + 1)


def test_a_batch_is_the_generators_alone(tmp_path: Path) -> None:
    for name in "abcdef":
        write(tmp_path / "set", name, 10)
    dataset = open_folder(tmp_path / "set")
    first, again, other = (dataset.batch(8, frames=4, generator=seeded(n)).latents for n in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (lambda f: (f / "a.txt").unlink(), "a.txt is missing"),
        (lambda f: (f / "a.txt").write_text(" \n"), "a.txt is empty"),
        (lambda f: (f / "a.txt").write_bytes(b"\xff"), "a.txt cannot be read"),
        (lambda f: (f / "a.safetensors").write_bytes(b"no"), "a.safetensors has no latents of a video"),
        (lambda f: os.truncate(f / "a.safetensors", 200), "a.safetensors has no latents of a video"),
        (lambda f: write(f, "a", 3), "a.safetensors has 3 latent frames, shorter than clip_frames=4"),
        (lambda f: write(f, "a", 4, fps=16), "fps=16, expected the preset's fps=8"),
        (lambda f: (f / "a.safetensors").unlink(), "has no latents: expected files NAME.safetensors and NAME.txt"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_in_one_line(tmp_path: Path, spoil, line: str) -> None:
    write(tmp_path / "set", "a", 4)
    spoil(tmp_path / "set")
    with pytest.raises(ValueError) as error:
        open_folder(tmp_path / "set")
    assert line in str(error.value) and "\n" not in str(error.value)


def test_latents_of_another_size_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "set", "a", 4)
    with pytest.raises(ValueError, match=r"latents are \[1, 4, 2, 3, 5\], expected \[1, F, 2, 3, 6\]"):
        LatentFolder.open(tmp_path / "set", GENERATION, size=(2, 3, 6), device=CPU)
