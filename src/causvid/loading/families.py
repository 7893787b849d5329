"""How a model that does not say so itself is meant to generate: told by its name, or by its size."""

import re
from pathlib import Path

from causvid.config import GenerationConfig, TransformerConfig
from causvid.preset import load_preset, preset_names

# What the names of published students have in them, written without marks, and the preset that each was made for.
_FAMILIES = {
    "selfforcing": "self-forcing",
    "longlive": "longlive",
    "krea": "krea-14b",
    "causvid": "causvid",
    "autoregressivecheckpoint": "causvid",
}
_SIZES = ("wan-1.3b", "wan-14b")


def choose_generation(
    preset: str | None, *, name: str | Path, config: TransformerConfig, own: GenerationConfig | None = None
) -> tuple[str | None, GenerationConfig]:
    """Choose how to generate, and the preset that says so: the one asked for, of the family, `own`, or of the size.

    Args:
        name: of the file or folder that the transformer comes from. own: what the rest of its model says, if anything.

    Raises:
        ValueError: if nothing tells.
    """
    known = preset or _family(name)
    if known is None and own is not None:
        return None, own
    known = known or next((size for size in _SIZES if load_preset(size).transformer == config), None)
    if known is None:
        raise ValueError(
            f"{name}: a transformer of {config.layers} blocks of width {config.dim} is of no size that has a preset: "
            f"choose one with preset=, {', '.join(preset_names())} or a .toml file"
        )
    return known, load_preset(known).generation


def _family(name: str | Path) -> str | None:
    """Return the preset of the family that a name tells, read from its end.

    Of a path that exists only the last two parts are looked at, since a folder further up may be called anything.
    """
    path = Path(name)
    for part in reversed(path.parts[-2:] if path.exists() else path.parts):
        plain = re.sub(r"[^a-z0-9]", "", part.lower())
        for family, preset in _FAMILIES.items():
            if family in plain:
                return preset
    return None
