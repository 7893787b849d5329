"""How strongly a LoRA counts: alpha, rank and their patterns, from the header of its file or peft's settings beside it.

Source: peft's `LoraConfig`, whose patterns are regular expressions for the end of a layer's name.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from causvid.config import one_line

_JSON = ("lora_adapter_metadata", "adapter_config", "lora_config")
"""Entries of a header that are whole settings: diffusers', and those of peft copied there."""
_PLAIN = {
    "lora_alpha": "lora_alpha",
    "alpha": "lora_alpha",
    "network_alpha": "lora_alpha",
    "ss_network_alpha": "lora_alpha",
    "r": "r",
    "rank": "r",
    "lora_rank": "r",
    "network_dim": "r",
    "ss_network_dim": "r",
    "use_rslora": "use_rslora",
    "use_dora": "use_dora",
    "alpha_pattern": "alpha_pattern",
    "rank_pattern": "rank_pattern",
}
"""Entries of a header that are one setting; kohya's begin with `ss_`."""
_UNSET = ("", "None", "none", "null", "Dynamic")
_REPEATS = re.compile(r"[*+?{]")


def _stated(value: object) -> object:
    return None if isinstance(value, str) and value in _UNSET else value


def _table(value: object) -> object:
    try:
        return json.loads(value) if isinstance(value, str) else value or {}
    except RecursionError:
        raise ValueError("it is not a table of JSON") from None


Alpha = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]
Rank = Annotated[int, Field(ge=1, le=2**16)]


class LoraSettings(BaseModel):
    """What peft's settings say of a LoRA's scale; all else in them decides how it was trained."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    peft_type: str = "LORA"
    use_dora: bool = False
    use_rslora: bool = False
    lora_alpha: Annotated[Alpha | None, BeforeValidator(_stated)] = None
    r: Annotated[Rank | None, BeforeValidator(_stated)] = None
    alpha_pattern: Annotated[dict[str, Alpha], BeforeValidator(_table), Field(max_length=10_000)] = {}
    rank_pattern: Annotated[dict[str, Rank], BeforeValidator(_table), Field(max_length=10_000)] = {}

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> "LoraSettings":
        """Check settings.

        Raises:
            ValueError: for what is no number, a pattern that cannot be used, or another kind of adapter.
        """
        try:
            settings = cls.model_validate(values)
        except ValidationError as error:
            raise ValueError(one_line(error)) from None
        if settings.peft_type != "LORA" or settings.use_dora:
            kind = "use_dora" if settings.use_dora else f"peft_type={settings.peft_type}"
            raise ValueError(f"{kind}, expected a plain LoRA")
        for pattern in (*settings.alpha_pattern, *settings.rank_pattern):
            _check_pattern(pattern)
        return settings

    def scale(self, layer: str, rank: int, *, alpha: float | None = None) -> float:
        """Return what the product of a layer's matrices of that rank counts; alpha: the file's own, of this layer.

        Raises:
            ValueError: if the settings are of matrices of another rank, so that alpha means something else.
        """
        if alpha is None:
            alpha = _lookup(self.alpha_pattern, layer, self.lora_alpha)
            stated = _lookup(self.rank_pattern, layer, self.r)
            if alpha is not None and stated is not None and stated != rank:
                raise ValueError(f"{layer} is of rank {rank}, but its settings state {stated}: alpha is ambiguous")
        if alpha is None:
            return 1.0 if not self.use_rslora else math.sqrt(rank)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


def header_settings(header: Mapping[str, str]) -> dict[str, Any]:
    """Return what the header of a safetensors file states of its LoRA, by peft's names.

    Raises:
        ValueError: if an entry that has to be JSON is not.
    """
    stated: dict[str, Any] = {}
    for key, ours in _PLAIN.items():
        if key in header:
            stated.setdefault(ours, header[key])
    for key in _JSON:
        try:
            table = json.loads(header.get(key, "{}"))
        except (ValueError, RecursionError):
            raise ValueError(f"{key} in its header is not JSON") from None
        if not isinstance(table, dict):
            raise ValueError(f"{key} in its header is not a JSON object")
        # diffusers writes one table for all parts of a pipeline, each name behind that of its part.
        stated |= {name.removeprefix("transformer."): value for name, value in table.items()}
    return stated


def _lookup(patterns: Mapping[str, Any], layer: str, default: Any) -> Any:
    """Return the value of the first pattern that fits the end of a name from a dot on, as peft does."""
    for pattern, value in patterns.items():
        if re.fullmatch(rf"(.*\.)?({pattern})", layer):
            return value
    return default


def _check_pattern(pattern: str) -> None:
    """Refuse what is no regular expression, or one that may take for ever: a file decides what is in it."""
    plain = re.sub(r"\\.", "", pattern)
    plain = re.sub(r"\[[^]]*\]", "", plain)
    if len(pattern) > 256 or len(_REPEATS.findall(plain)) > 3 or plain.count("(") > 3 or re.search(r"\)[*+{]", plain):
        raise ValueError(f"the pattern {pattern[:60]!r} is too complex: expected at most 3 repetitions and 3 groups")
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"the pattern {pattern[:60]!r} is no regular expression: {error}") from None
