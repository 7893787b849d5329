"""Recognise what a file of weights is by its names alone."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Role = Literal["transformer", "variant", "lora", "autoencoder", "tiny autoencoder", "text encoder", "other"]


@dataclass(frozen=True)
class Kind:
    """What the weights are for, and in words."""

    role: Role
    what: str


TRANSFORMER = Kind("transformer", "a Wan transformer")
OTHER = Kind("other", "a model of another kind")

_WAN = re.compile(r"blocks\.\d+\.(self_attn|attn1|self_attention)\.")
_VARIANTS = (
    (r"vace_", "VACE, which is conditioned on video and masks"),
    (r"face_adapter\.|motion_encoder\.|face_encoder\.", "Wan-Animate, which is conditioned on a motion"),
    (r"casual_audio_encoder\.|audio_injector\.|audio_proj\.", "conditioned on sound"),
    (r"control_adapter\.|ref_conv\.", "conditioned on a control signal"),
    (
        r"img_emb\.|.*\.(k_img|v_img|norm_k_img)\.|condition_embedder\.image_embedder\.|.*\.(add_k_proj|add_v_proj)\.",
        "image-conditioned (I2V or FLF2V)",
    ),
)
_OTHERS = (
    (r"token_embedding\.weight$|shared\.weight$|.*\.SelfAttention\.q\.", Kind("text encoder", "a T5 text encoder")),
    (r"(encoder|decoder)\.(conv1|conv_in)\.", Kind("autoencoder", "a video autoencoder (VAE)")),
    (r"(encoder|decoder)\.\d+\.", Kind("tiny autoencoder", "a tiny autoencoder (TAEHV)")),
    (r"visual\.|textual\.|vision_model\.|text_model\.", Kind("other", "an image encoder (CLIP)")),
)
_LORA = re.compile(r"lora_|.*\.(lora_(A|B|down|up)|lora\.(down|up)|hada_w1_a|lokr_w1|diff_b)\b")


def recognise(names: Iterable[str]) -> Kind:
    """Return what weights of these names, without wrappers' prefixes, are."""
    names = list(names)
    if _any(_LORA, names):
        return Kind("lora", "a LoRA")
    if _any(_WAN, names):
        for pattern, what in _VARIANTS:
            if _any(re.compile(pattern), names):
                return Kind("variant", f"a variant of Wan that is another architecture: {what}")
        return TRANSFORMER
    return next((kind for pattern, kind in _OTHERS if _any(re.compile(pattern), names)), OTHER)


def _any(pattern: re.Pattern[str], names: Iterable[str]) -> bool:
    return any(pattern.match(name) for name in names)
