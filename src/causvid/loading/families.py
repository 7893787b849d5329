"""How to generate with published weights, which do not say: chosen by their name, or by their size."""

import re
from pathlib import Path

from causvid.config import GenerationConfig, TransformerConfig
from causvid.preset import load_preset, preset_names

# Parts of the names of published students, without punctuation, and the preset that each was trained for.
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
    """Choose a preset and its settings: the one asked for, of the family, of the size; or the base's own settings.

    Args:
        name: of the file or folder that the transformer comes from. own: the settings of its base, if it has any.

    Raises:
        ValueError: if nothing decides.
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
    """Return the preset of the family that a name belongs to, read from its end.

    Of a path that exists only the last two parts count, since a folder further up may be called anything.
    """
    path = Path(name)
    for part in reversed(path.parts[-2:] if path.exists() else path.parts):
        plain = re.sub(r"[^a-z0-9]", "", part.lower())
        for family, preset in _FAMILIES.items():
            if family in plain:
                return preset
    return None
