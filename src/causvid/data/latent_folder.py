"""A folder of latents as a dataset: `NAME.safetensors`, as `--latents` writes it, beside its caption `NAME.txt`.

Letters: F latent frames, C channels, h w latent rows and columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from causvid.config import GenerationConfig
from causvid.data.dataset import Batch, number
from causvid.files.format import check_header
from causvid.opening import read_text


@dataclass(frozen=True)
class LatentFolder:
    """Clips read from their files as they are drawn.

    files: each with latents `[1, F, C, h, w]`. lengths: their F. numbers: which caption each has. clip_frames, chunk:
    of the model that trains on them.
    """

    files: Sequence[Path]
    lengths: Sequence[int]
    captions: Sequence[str]
    numbers: Sequence[int]
    clip_frames: int
    chunk: int
    device: torch.device

    @classmethod
    def open(
        cls, folder: Path, generation: GenerationConfig, *, size: tuple[int, int, int], device: torch.device
    ) -> "LatentFolder":
        """Read the headers and captions of a folder, whose latents must be of `size` (C, h, w).

        Raises:
            ValueError: if the folder has no latents, or a file lacks its caption, is damaged, shorter than a clip, or
                of another size or frame rate.
        """
        files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
        if not files:
            raise ValueError(f"data={folder} has no latents: expected files NAME.safetensors and NAME.txt")
        lengths = [_check(file, generation, size) for file in files]
        distinct, numbers = number([_read_caption(file.with_suffix(".txt")) for file in files])
        return cls(files, lengths, distinct, numbers, generation.clip_frames, generation.chunk, device)

    def batch(self, size: int, *, frames: int, generator: torch.Generator) -> Batch:
        """Draw files, and a clip of each; return the clips' first `frames` latent frames.

        A clip begins a multiple of the chunk after its file does, so that its later chunks are whole chunks of the
        file. The first latent frame of a file stands for one pixel frame, that of a later clip for four.
        """
        drawn = torch.rand((2, size), generator=generator, device=generator.device, dtype=torch.float64)
        clips, captions = [], []
        for which, where in drawn.T.tolist():
            n = int(which * len(self.files))
            offset = self.chunk * int(where * (1 + (self.lengths[n] - self.clip_frames) // self.chunk))
            with safe_open(self.files[n], framework="pt") as file:
                clips.append(file.get_slice("latents")[0, offset : offset + frames].float())
            captions.append(self.numbers[n])
        return Batch(torch.stack(clips).to(self.device), torch.tensor(captions, device=self.device))


def _check(file: Path, generation: GenerationConfig, size: tuple[int, int, int]) -> int:
    """Return how many latent frames a file has, or raise a `ValueError` that says why it cannot be trained on."""
    try:
        check_header(file)
        with safe_open(file, framework="pt") as opened:
            shape = list(opened.get_slice("latents").get_shape())
            fps = float((opened.metadata() or {})["fps"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ValueError(f"{file} has no latents of a video: {error}") from None
    if len(shape) != 5 or shape[0] != 1 or tuple(shape[2:]) != size:
        raise ValueError(f"{file}: latents are {shape}, expected [1, F, {', '.join(map(str, size))}]")
    if shape[1] < generation.clip_frames:
        raise ValueError(f"{file} has {shape[1]} latent frames, shorter than clip_frames={generation.clip_frames}")
    if fps != generation.fps:
        raise ValueError(f"{file}: fps={fps:g}, expected the preset's fps={generation.fps:g}")
    return int(shape[1])


def _read_caption(path: Path) -> str:
    """Read a caption, white space joined."""
    try:
        caption = " ".join(read_text(path).split())
    except FileNotFoundError:
        raise ValueError(f"{path} is missing: it has the caption of the latents beside it") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    if not caption:
        raise ValueError(f"{path} is empty: it has the caption of the latents beside it")
    return caption
