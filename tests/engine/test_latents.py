"""Latents as a file: what was written comes back, and nothing else is taken for it."""

import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from causvid.engine.latents import decode_latents, load_latents, save_latents
from causvid.pipeline import Pipeline


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_latents_come_back_as_they_were(tmp_path: Path, dtype: torch.dtype) -> None:
    latents = torch.randn(1, 7, 4, 8, 6).to(dtype).transpose(3, 4)
    file = tmp_path / "run.safetensors"
    save_latents(file, latents, fps=8.5)
    again, fps = load_latents(file)
    assert torch.equal(again, latents) and again.dtype == dtype and fps == 8.5
    assert [path.name for path in tmp_path.iterdir()] == ["run.safetensors"]


def test_a_disk_that_is_full_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "run.safetensors"
    save_latents(file, torch.zeros(1, 1, 4, 2, 2), fps=8)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match=r"run\.safetensors cannot be written: no space left"):
            save_latents(file, torch.zeros(1, 9, 4, 16, 16), fps=8)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert load_latents(file)[0].shape == (1, 1, 4, 2, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["run.safetensors"]


@pytest.mark.parametrize("kind", ["missing", "folder", "empty", "cut", "text", "other", "shape", "batch", "fps", "nan"])
def test_what_is_no_run_is_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "run.safetensors"
    good = {"latents": torch.zeros(1, 3, 4, 2, 2)}
    if kind == "folder":
        file.mkdir()
    elif kind in ("empty", "text"):
        file.write_text("" if kind == "empty" else "hello " * 9)
    elif kind == "cut":
        save_latents(file, good["latents"], fps=8)
        file.write_bytes(file.read_bytes()[:-9])
    elif kind == "other":
        save_file({"weight": torch.zeros(3)}, file, metadata={"fps": "8"})
    elif kind == "shape":
        save_file({"latents": torch.zeros(3, 4, 2, 2)}, file, metadata={"fps": "8"})
    elif kind == "batch":
        save_file({"latents": torch.zeros(2, 3, 4, 2, 2)}, file, metadata={"fps": "8"})
    elif kind == "fps":
        save_file(good, file)
    elif kind == "nan":
        save_file(good, file, metadata={"fps": "nan"})
    with pytest.raises(ValueError, match=r"run\.safetensors") as caught:
        load_latents(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_latents_are_decoded_piece_by_piece_as_at_once(small: Pipeline, chunk: int) -> None:
    latents = torch.randn(1, 5, 4, 4, 6, generator=torch.Generator().manual_seed(0))
    autoencoder = small.bundle.autoencoder
    pieces = list(decode_latents(autoencoder, latents, chunk=chunk, device="cpu"))
    (whole,) = decode_latents(autoencoder, latents, chunk=9, device="cpu")
    assert len(pieces) == -(-5 // chunk) and whole.shape == (17, 32, 48, 3)
    assert (torch.cat(pieces).int() - whole.int()).abs().max() <= 1
