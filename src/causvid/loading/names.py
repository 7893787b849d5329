"""Names of the transformer's weights in other formats, both ways, as one table; and what other names give away.

Three spellings of one model: ours, diffusers' `WanTransformer3DModel`, and Wan 2.1's original. Values are the same in
all three; only the patch embedding differs in shape, being a 3-D convolution elsewhere and a product of flattened
patches here. Wan's original calls the norm before cross-attention `norm3`, diffusers calls it `norm2`.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from causvid.config import TransformerConfig
from causvid.files.checkpoint import Entry
from causvid.models.transformer import Transformer
from causvid.seeding import without_contents

Spelling = Literal["ours", "diffusers", "wan"]

# ours, diffusers, Wan original
_OUTSIDE = (
    ("patch_in", "patch_embedding", "patch_embedding"),
    ("text_in.0", "condition_embedder.text_embedder.linear_1", "text_embedding.0"),
    ("text_in.2", "condition_embedder.text_embedder.linear_2", "text_embedding.2"),
    ("time_in.0", "condition_embedder.time_embedder.linear_1", "time_embedding.0"),
    ("time_in.2", "condition_embedder.time_embedder.linear_2", "time_embedding.2"),
    ("time_modulation.1", "condition_embedder.time_proj", "time_projection.1"),
    ("head_modulation", "scale_shift_table", "head.modulation"),
    ("head", "proj_out", "head.head"),
)
_IN_BLOCK = (
    ("modulation", "scale_shift_table", "modulation"),
    ("cross_norm", "norm2", "norm3"),
    ("feed_forward.0", "ffn.net.0.proj", "ffn.0"),
    ("feed_forward.2", "ffn.net.2", "ffn.2"),
    *(
        (f"{ours}.{part}", f"{diffusers}.{to}", f"{wan}.{original}")
        for ours, diffusers, wan in (
            ("self_attention", "attn1", "self_attn"),
            ("cross_attention", "attn2", "cross_attn"),
        )
        for part, to, original in (
            ("query", "to_q", "q"),
            ("key", "to_k", "k"),
            ("value", "to_v", "v"),
            ("out", "to_out.0", "o"),
            ("query_norm", "norm_q", "norm_q"),
            ("key_norm", "norm_k", "norm_k"),
        )
    ),
)
_COLUMN: dict[Spelling, int] = {"ours": 0, "diffusers": 1, "wan": 2}
CONVOLUTION = "patch_in.weight"
_WRAPPERS = {
    "model",
    "module",
    "generator",
    "diffusion_model",
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
}
_BLOCK = re.compile(r"blocks\.\d+\.")
_START = re.compile(r"(|[\w.]+\.)blocks\.\d+\.(self_attn|attn1|self_attention)\.")

_LORA = r"lora_|.*\.(lora_(A|B|down|up)|lora\.(down|up)|hada_w1_a|lokr_w1|diff_b)\b"
_WAN = r"blocks\.\d+\.(self_attn|attn1|self_attention)\."
_VARIANTS = (
    (r"vace_", "VACE, which is conditioned on video and masks"),
    (r"face_adapter\.|motion_encoder\.|face_encoder\.", "Wan-Animate, which is conditioned on a motion"),
    (r"casual_audio_encoder\.|audio_injector\.|audio_proj\.", "conditioned on sound"),
    (r"control_adapter\.|ref_conv\.", "conditioned on a control signal"),
    (
        r"img_emb\.|condition_embedder\.image_embedder\.|.*\.(k_img|v_img|norm_k_img|add_k_proj|add_v_proj)\.",
        "image-conditioned (I2V or FLF2V)",
    ),
)
IMAGE_CONDITIONED = re.compile(
    r"(^|[._])(img_emb|image_embedder|k_img|v_img|norm_k_img|add_k_proj|add_v_proj|norm_added_k)([._]|$)"
)
"""Names of what only an image-conditioned Wan has, with dots or underscores."""
_OTHERS = (
    (r"token_embedding\.weight$|shared\.weight$|.*\.SelfAttention\.q\.", "a T5 text encoder"),
    (r"(encoder|decoder)\.(conv1|conv_in)\.", "a video autoencoder (VAE)"),
    (r"(encoder|decoder)\.\d+\.", "a tiny autoencoder (TAEHV)"),
    (r"visual\.|textual\.|vision_model\.|text_model\.", "an image encoder (CLIP)"),
)


class Kind(NamedTuple):
    """What weights are for, and in words."""

    role: Literal["transformer", "variant", "lora", "other"]
    what: str


def bare_name(name: str) -> str:
    """Strip what training and compilation wrap around a module, wherever it stands in a name."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def common_start(names: Iterable[str]) -> str:
    """Return what stands before all bare names of a transformer, such as `dit.` or `net.`; "" if nothing does."""
    names = list(names)
    found = {match[1] for name in names if (match := _START.match(name))}
    start = found.pop() if len(found) == 1 else ""
    return start if all(name.startswith(start) for name in names) else ""


def foreign_name(name: str, to: Spelling) -> str:
    """Translate one of our parameter or module names, such as `blocks.3.self_attention.query.weight`."""
    translated = translate(name, "ours", to)
    if translated is None:
        raise KeyError(name)
    return translated


def translate(name: str, source: Spelling, to: Spelling) -> str | None:
    """Translate a parameter's or module's name; None if the spelling does not know it."""
    block = _BLOCK.match(name)
    prefix = block[0] if block else ""
    rest = name.removeprefix(prefix)
    for row in _IN_BLOCK if block else _OUTSIDE:
        known = row[_COLUMN[source]]
        if rest == known or rest.startswith(f"{known}."):
            return prefix + row[_COLUMN[to]] + rest.removeprefix(known)
    return None


@lru_cache(maxsize=8)
def shapes(config: TransformerConfig) -> Mapping[str, torch.Size]:
    """Return name → shape of all parameters of our transformer, without making them."""
    with without_contents():
        return MappingProxyType({name: tensor.shape for name, tensor in Transformer(config).state_dict().items()})


def foreign_shape(name: str, shape: torch.Size, config: TransformerConfig, to: Spelling) -> torch.Size:
    """Return the shape of our parameter `name` of `shape` in the other format."""
    if name == CONVOLUTION and to != "ours":
        return torch.Size((config.dim, config.in_channels, 1, config.patch, config.patch))
    return shape


def foreign_shapes(config: TransformerConfig, to: Spelling) -> dict[str, torch.Size]:
    """Return name → shape of all parameters as the other format has them."""
    return {foreign_name(name, to): foreign_shape(name, shape, config, to) for name, shape in shapes(config).items()}


def to_foreign(state: Mapping[str, Tensor], config: TransformerConfig, to: Spelling) -> dict[str, Tensor]:
    """Rename and reshape our weights to another format's.

    Raises:
        ValueError: if `state` is not exactly the weights of a transformer of `config`.
    """
    check_shapes(state, shapes(config))
    return {
        foreign_name(name, to): tensor.reshape(foreign_shape(name, tensor.shape, config, to))
        for name, tensor in state.items()
    }


def compare_shapes(found: Mapping[str, Tensor | Entry], expected: Mapping[str, torch.Size]) -> str:
    """Say what is missing, unknown or of another shape among tensors or entries; nothing if all is as expected."""
    missing = [name for name in expected if name not in found]
    unknown = [name for name in found if name not in expected]
    misshapen = [
        f"{name} is {list(found[name].shape)}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name].shape != shape
    ]
    problems = (("missing ", missing), ("unknown ", unknown), ("", misshapen))
    return "; ".join(what + few(names) for what, names in problems if names)


def check_shapes(found: Mapping[str, Tensor | Entry], expected: Mapping[str, torch.Size]) -> None:
    """Raise a `ValueError` of one line unless all is as expected."""
    if mismatch := compare_shapes(found, expected):
        raise ValueError(f"the weights do not fit: {mismatch}")


def few(names: Sequence[str], count: int = 4) -> str:
    """Join the first names, and count the others."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more


def recognise(names: Iterable[str]) -> Kind:
    """Return what weights are, by their bare names alone."""
    names = list(names)

    def has(pattern: str) -> bool:
        return any(re.match(pattern, name) for name in names)

    if has(_LORA):
        return Kind("lora", "a LoRA")
    if has(_WAN):
        variant = next((what for pattern, what in _VARIANTS if has(pattern)), None)
        if variant is None:
            return Kind("transformer", "a Wan transformer")
        return Kind("variant", f"a variant of Wan that is another architecture: {variant}")
    return Kind("other", next((what for pattern, what in _OTHERS if has(pattern)), "a model of another kind"))
