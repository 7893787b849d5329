"""How a loaded model runs on this machine: as it is written, or by what is faster here.

`auto` decodes in bf16 where the processor multiplies it natively: 53 dB from what fp32 gives, with the built-in model.
`inductor` also compiles the passes of a stream whose window is full, in fp32, and `openvino` hands them to OpenVINO:
both write down a graph, which holds the weights once more. Training is not touched.
"""

import sys

import torch

from causvid.loading.inductor import InductorPasses
from causvid.loading.spec import Acceleration
from causvid.models.tiny_autoencoder import TinyAutoencoder
from causvid.models.transformer import Transformer
from causvid.models.wan_autoencoder import WanAutoencoder

LARGEST = 2**29
"""Parameters of the largest transformer of which a graph is made."""


def accelerate(how: Acceleration, transformer: Transformer, autoencoder: TinyAutoencoder | WanAutoencoder) -> None:
    """Let a model on a CPU run faster, in place; elsewhere, and by `none`, it stays as it is."""
    weight = transformer.patch_in.weight
    if how == "none" or weight.device.type != "cpu":
        return
    if isinstance(autoencoder, TinyAutoencoder) and autoencoder.dtype == torch.float32 and multiplies_bf16():
        autoencoder.decode_in_bf16()
    if how == "auto" or weight.dtype != torch.float32:
        return
    if sum(p.numel() for p in transformer.parameters()) > LARGEST:
        print(f"note: a transformer of this size runs as it is, not by {how}", file=sys.stderr)
    elif how == "inductor":
        transformer.accelerated = InductorPasses(transformer)
    else:
        try:
            from causvid.loading.openvino import OpenVinoPasses
        except ImportError:
            print("note: openvino is not installed (pip install 'causvid[openvino]'): running without", file=sys.stderr)
            return
        transformer.accelerated = OpenVinoPasses(transformer)


def multiplies_bf16() -> bool:
    """Tell whether this processor has instructions for matrices in bf16."""
    has: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.11 cannot tell
    return bool(has.get("amx_bf16"))
