"""What is refused before torch is imported, which takes seconds: options, models and files that cannot be used."""

from pathlib import Path
from typing import Any

from causvid.engine.request import GenerationOptions, check_prompt
from causvid.files.hub import check_name
from causvid.loading.layout import find_layout
from causvid.loading.spec import ModelSpec
from causvid.media.clip import camera
from causvid.opening import open_regular


def check_request(prompt: str, parts: dict[str, Any], **options: Any) -> None:
    """Raise a `ValueError` for a prompt, options or a model that cannot be."""
    GenerationOptions.make(**options)
    check_prompt(prompt)
    check_model(parts)


def check_model(parts: dict[str, Any]) -> None:
    """Raise a `ValueError` for parts of a model that are neither there nor on the Hub, or for a folder that is none."""
    spec = ModelSpec.make(**parts)
    for what in ("model", "student", "tiny_autoencoder"):
        name = getattr(spec, what)
        if name is not None:
            check_name(name, what=what)
    for place, _ in spec.loras:
        check_name(place, what="lora")
    if spec.model is not None and Path(spec.model).expanduser().exists():
        find_layout(spec.model)


def check_files(*sources: str | Path | None) -> None:
    """Raise an error unless these files can be opened; folders of frames and cameras are left to who reads them."""
    for source in sources:
        if source is not None and camera(source) is None and not Path(source).is_dir():
            open_regular(source).close()
