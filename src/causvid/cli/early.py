"""What is refused before torch is imported, which takes seconds: options, models and files that cannot be used.

What reads a kind of file is imported only where there is one.
"""

import re
import sys
from pathlib import Path
from typing import Any

from causvid.engine.request import LATENTS, GenerationOptions, check_prompt
from causvid.files.format import check_weights
from causvid.files.hub import check_name
from causvid.loading.spec import ModelSpec
from causvid.opening import open_regular

INDEX = ".json"
"""Of shards of weights: it is read with them."""
_DEVICE = re.compile(r"(cpu|cuda|mps|xpu|meta|hpu|mtia|vulkan|xla)(:[0-9]{1,3})?")
_DRIVERS = ("nvidia*", "dxg", "kfd")
"""What Linux has in /dev for a GPU that CUDA or ROCm knows."""


def check_request(prompt: str, parts: dict[str, Any], **options: Any) -> None:
    """Raise a `ValueError` for a prompt, options or a model that cannot be."""
    GenerationOptions.make(**options)
    check_prompt(prompt)
    check_model(parts)


def check_model(parts: dict[str, Any]) -> None:
    """Raise a `ValueError` for parts of a model that are neither there nor on the Hub, or for a folder that is none."""
    spec = ModelSpec.make(**parts)
    for what in ("model", "student", "autoencoder", "umt5", "tiny_autoencoder"):
        name = getattr(spec, what)
        if name is not None:
            check_name(name, what=what)
            check_local_weights(name)
    for place, _ in spec.loras:
        check_name(place, what="lora")
        check_local_weights(place)
    if spec.model is not None and Path(spec.model).expanduser().exists():
        from causvid.loading.layout import find_layout

        find_layout(spec.model)


def check_device(name: str | None) -> None:
    """Raise a `ValueError` for the name of a device that no machine has, or of a GPU where there is none."""
    if name is None:
        return
    match = _DEVICE.fullmatch(name)
    gpu = match is not None and match[1] == "cuda"
    if match is None or (gpu and sys.platform == "linux" and not any(any(Path("/dev").glob(it)) for it in _DRIVERS)):
        raise ValueError(f"device={name} is not available on this machine")


def check_local_weights(name: str | Path) -> None:
    """Raise an error for a file that holds no weights; folders and names on the Hub are left to who reads them."""
    path = Path(name).expanduser()
    if path.exists() and not path.is_dir() and path.suffix != INDEX:
        check_weights(path)


def check_picture(picture: str | Path | None) -> None:
    """Raise an error unless a picture can be opened."""
    if picture is not None:
        from causvid.media.image import check_image

        check_image(picture)


def check_latents(file: Path) -> None:
    """Raise an error unless a file can hold the latents of a run."""
    try:
        check_weights(file)
    except ValueError as error:
        raise ValueError(f"{file} holds no latents of a run: {error}") from None


def check_source(source: str | Path) -> None:
    """Raise an error unless a video or the latents of a run can be opened; folders and cameras are for readers."""
    from causvid.media import probe
    from causvid.media.clip import camera

    if camera(source) is not None or Path(source).is_dir():
        return
    open_regular(source).close()
    if Path(source).suffix == LATENTS:
        check_latents(Path(source))
    else:
        probe(source)
