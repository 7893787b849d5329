"""How a loaded model runs on this machine: as it is written, or by what is faster here.

`auto` decodes in bf16 where the processor multiplies it natively: 53 dB from what fp32 gives, with the built-in model.
`openvino` also hands OpenVINO the passes of a stream whose window is full, in fp32. Training is not touched.
"""

import sys

import torch

from causvid.loading.spec import Acceleration
from causvid.models.tiny_autoencoder import TinyAutoencoder
from causvid.models.transformer import Transformer
from causvid.models.wan_autoencoder import WanAutoencoder


def accelerate(how: Acceleration, transformer: Transformer, autoencoder: TinyAutoencoder | WanAutoencoder) -> None:
    """Let a model on a CPU run faster, in place; elsewhere, and by `none`, it stays as it is."""
    weight = transformer.patch_in.weight
    if how == "none" or weight.device.type != "cpu":
        return
    if isinstance(autoencoder, TinyAutoencoder) and autoencoder.dtype == torch.float32 and multiplies_bf16():
        autoencoder.decode_in_bf16()
    if how == "openvino":
        try:
            from causvid.loading.openvino import OpenVinoPasses
        except ImportError:
            print("note: openvino is not installed (pip install 'causvid[openvino]'): running without", file=sys.stderr)
            return
        if weight.dtype == torch.float32:
            transformer.accelerated = OpenVinoPasses(transformer)


def multiplies_bf16() -> bool:
    """Tell whether this processor has instructions for matrices in bf16."""
    has: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.11 cannot tell
    return bool(has.get("amx_bf16"))
