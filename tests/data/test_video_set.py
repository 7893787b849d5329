"""A set is drawn from evenly, cut at whole chunks, and refused in one line where it is damaged."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from causvid.data.captions import Captions
from causvid.data.plan import Rules
from causvid.data.prepare import prepare
from causvid.data.set_models import SetModels
from causvid.data.video_set import VideoSet, damaged
from causvid.engine.latents import save_latents
from causvid.loading.spec import ModelSpec

CPU = torch.device("cpu")
Make = Callable[..., Path]


@pytest.fixture(scope="module")
def models(toy_bundle: Path) -> SetModels:
    return SetModels.load(ModelSpec(model=str(toy_bundle)), CPU)


@pytest.fixture
def make(models: SetModels, tmp_path: Path) -> Make:
    """Make a set of latents whose values tell the sample and the frame; of each, frames, rows and columns."""

    def made(*shapes: tuple[int, int, int], captions: tuple[str, ...] = ("a swan",)) -> Path:
        for n, (frames, rows, columns) in enumerate(shapes):
            values = (100 * n + torch.arange(frames).float())[None, :, None, None, None]
            file = tmp_path / "own" / f"{n}.safetensors"
            save_latents(file, values.expand(1, -1, 4, rows, columns).contiguous(), fps=models.generation.fps)
            file.with_suffix(".txt").write_text(captions[n % len(captions)], encoding="utf-8")
        stage = lambda name: lambda done, of: None  # noqa: E731
        out = tmp_path / "set"
        prepare([tmp_path / "own"], out, models, captions=Captions(), rules=Rules(), workers=1, stage=stage)
        return out

    return made


def opened(folder: Path, models: SetModels, size: tuple[int, int, int] = (4, 4, 6), **options: bool) -> VideoSet:
    return VideoSet.open(folder, models.generation, size=size, device=CPU, **options)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_batches_reach_every_sample_with_its_caption(make: Make, models: SetModels) -> None:
    data = opened(make(*[(4, 4, 6)] * 3, captions=(" a  red\nswan ", "a blue mammoth", "a red swan")), models)
    assert list(data.captions) == ["a red swan", "a blue mammoth"]
    batch = data.batch(300, frames=4, generator=seeded())
    assert batch.latents.shape == (300, 4, 4, 4, 6) and batch.latents.dtype == torch.float32
    sample = batch.latents[:, 0, 0, 0, 0] // 100
    assert torch.bincount(sample.int()).tolist() == pytest.approx([100, 100, 100], abs=25)
    assert torch.equal(batch.captions, (sample == 1).long())


def test_clips_begin_at_whole_chunks_and_reach_the_end(make: Make, models: SetModels) -> None:
    batch = opened(make((12, 4, 6)), models).batch(200, frames=2, generator=seeded())
    starts = batch.latents[:, 0, 0, 0, 0]
    assert set(starts.tolist()) == {0.0, 3.0, 6.0}  # a clip of 4 frames from frame 9 on would end after the sample
    assert torch.equal(batch.latents[:, 1, 0, 0, 0], starts + 1)


def test_a_batch_is_of_one_size_and_the_generators_alone(make: Make, models: SetModels) -> None:
    data = opened(make((4, 4, 6), (4, 6, 4), (4, 4, 6), (4, 6, 4)), models)
    batches = [data.batch(3, frames=4, generator=seeded(n)).latents for n in range(20)]
    assert {batch.shape[3:] for batch in batches} == {(4, 6), (6, 4)}
    assert torch.equal(batches[0], data.batch(3, frames=4, generator=seeded(0)).latents)
    one = opened(data.folder, models, one_size=True)
    assert {sample.size for sample in one.samples} == {(4, 4, 6)} and len(one.samples) == 2
    with pytest.raises(ValueError, match="has no clip of 2 x 2 latent positions"):
        opened(data.folder, models, (4, 2, 2), one_size=True)


def test_stored_embeddings_are_those_of_the_text_encoder(make: Make, models: SetModels) -> None:
    data = opened(make(*[(4, 4, 6)] * 2, captions=("a red swan", "a blue mammoth in the rain")), models)
    torch.testing.assert_close(
        data.embeddings(models.text.max_tokens), models.text.embed(data.captions), rtol=0, atol=2e-3
    )


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def other_format(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 2}))


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (lambda f: (f / "manifest.json").unlink(), "lacks manifest.json: run `causvid data prepare` first"),
        (lambda f: (f / "manifest.json").write_text("{"), "manifest.json"),
        (lambda f: other_format(f / "manifest.json"), "format=2, expected 1"),
        (lambda f: (f / "shard_000000.tar").unlink(), "shard_000000.tar is missing or damaged"),
        (lambda f: os.truncate(f / "shard_000000.tar", 5000), "shard_000000.tar is missing or damaged"),
        (lambda f: flip(f / "shard_000000.tar", 700), "shard_000000.tar is damaged"),  # inside the first latents
        (lambda f: flip(f / "shard_000000.tar", 3), "shard_000000.tar is damaged"),  # a header of the tar
    ],
)
def test_what_is_damaged_is_refused_in_one_line(make: Make, models: SetModels, spoil, line: str) -> None:
    folder = make((4, 4, 6))
    spoil(folder)
    with pytest.raises(ValueError) as error:
        opened(folder, models).batch(2, frames=4, generator=seeded())
    assert line in str(error.value) and "\n" not in str(error.value)


def test_a_flipped_bit_is_found_and_preparing_again_repairs_it(make: Make, models: SetModels) -> None:
    folder = make((4, 4, 6), (4, 4, 6))
    data, whole = opened(folder, models), (folder / "shard_000000.tar").read_bytes()
    flip(folder / "shard_000000.tar", 3000)
    assert list(damaged(folder, data.manifest)) == ["shard_000000.tar"]
    make()
    assert (folder / "shard_000000.tar").read_bytes() == whole and not list(damaged(folder, data.manifest))


def test_latents_that_do_not_fit_are_left_out_with_their_reason(make: Make, models: SetModels, tmp_path: Path) -> None:
    make((4, 4, 6), (3, 4, 6))
    assert "has 3 latent frames, shorter than clip_frames=4" in (tmp_path / "set" / "left_out.csv").read_text()
    shutil.rmtree(tmp_path / "own")
    with pytest.raises(ValueError, match=r"no clip is left to train on \(unreadable 1; .*shorter than clip_frames=4"):
        make((3, 4, 6))
