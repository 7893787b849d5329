"""Clean latents of a run as a file: to be decoded again by another autoencoder, or to be continued."""

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from causvid.files.format import check_header
from causvid.files.writing import write_tensors
from causvid.media import to_bytes
from causvid.models.autoencoder import Autoencoder, AutoencoderState

_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def save_latents(path: Path, latents: Tensor, *, fps: float) -> None:
    """Write latents `[1, F, C, h, w]` of a video of `fps` frames a second; the file appears whole or not at all.

    Raises:
        OSError: if it cannot be written.
    """
    write_tensors(path, {"latents": latents}, {"fps": repr(fps)})


def load_latents(path: Path) -> tuple[Tensor, float]:
    """Read latents `[1, F, C, h, w]` and frames a second.

    Raises:
        ValueError: if the file is missing, damaged, or holds something else.
    """
    if not path.exists():
        raise ValueError(f"{path} is missing: `--latents` of an earlier run writes such a file")
    try:
        check_header(path)
        with safe_open(path, framework="pt") as file:
            latents = file.get_tensor("latents").clone()
            fps = float((file.metadata() or {})["fps"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ValueError(f"{path} holds no latents of a run: {error}") from None
    if latents.ndim != 5 or latents.shape[0] != 1 or 0 in latents.shape or latents.dtype not in _TYPES:
        raise ValueError(f"{path}: latents are {latents.dtype} {list(latents.shape)}, expected float [1, F, C, h, w]")
    if not 0.01 <= fps <= 1000:
        raise ValueError(f"{path}: fps={fps:g} is not from 0.01 to 1000")
    if not latents.isfinite().all():
        raise ValueError(f"{path}: latents are not finite numbers throughout")
    return latents, fps


@torch.inference_mode()
def decode_latents(
    autoencoder: Autoencoder, latents: Tensor, *, chunk: int, device: torch.device | str
) -> Iterator[Tensor]:
    """Decode latents `[1, F, C, h, w]`, so many latent frames at a time, into uint8 `[T, H, W, 3]` on the CPU.

    Raises:
        ValueError: if they are not of the autoencoder's kind.
    """
    state: AutoencoderState | None = None
    for part in latents.split(chunk, dim=1):
        pixels, state = autoencoder.decode_chunk(part.to(device), state)
        yield to_bytes(pixels[0])
