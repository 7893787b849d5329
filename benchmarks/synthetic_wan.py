"""Write a Wan 2.1 with random weights in diffusers' layout, to measure memory and speed without a download.

    python benchmarks/synthetic_wan.py runs/wan --preset wan-1.3b
    causvid plan --model runs/wan --student runs/wan/transformer --measure -o docs/benchmarks/wan-1.3b.json

Sizes are a preset's, except that the text encoder has few layers and knows few words. What it makes is noise.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from causvid.files.checkpoint import Entry
from causvid.files.writing import write_json, write_weights
from causvid.loading.names import foreign_shapes
from causvid.loading.text import save_text_encoder
from causvid.loading.wan_config import to_diffusers_config
from causvid.models.text import TextEncoder, train_tokenizer
from causvid.preset import load_preset

WORDS = ["a red paper airplane over a lake", "a blue swan in the snow at night"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
INDEX = {
    "_class_name": "WanPipeline",
    "transformer": ["diffusers", "WanTransformer3DModel"],
    "vae": ["diffusers", "AutoencoderKLWan"],
    "text_encoder": ["transformers", "UMT5EncoderModel"],
    "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
}


def main() -> None:
    """Write the folder that the command line names."""
    from diffusers import AutoencoderKLWan

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--preset", default="wan-1.3b", help="a preset's name or .toml file")
    parser.add_argument("--text-layers", type=int, default=1)
    parser.add_argument("--autoencoder-width", type=int, default=96, help="96 is Wan's")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    given = parser.parse_args()
    preset, dtype = load_preset(given.preset), DTYPES[given.dtype]
    generator = torch.Generator().manual_seed(0)

    given.folder.mkdir(parents=True)
    config = preset.transformer
    write(given.folder / "transformer", to_diffusers_config(config), foreign_shapes(config, "diffusers"), dtype)
    with torch.device("meta"):
        vae = AutoencoderKLWan(base_dim=given.autoencoder_width)
    shapes = {name: tensor.shape for name, tensor in vae.state_dict().items()}
    write(given.folder / "vae", {"_class_name": "AutoencoderKLWan", **vae.config}, shapes, dtype)
    sizes = preset.text.model_copy(update={"layers": given.text_layers})
    text = TextEncoder.create(sizes, train_tokenizer(WORDS), generator=generator)
    save_text_encoder(text, given.folder / "text_encoder", given.folder / "tokenizer", dtype=dtype)
    write_json(given.folder / "model_index.json", INDEX)


def write(folder: Path, settings: Mapping[str, Any], shapes: Mapping[str, torch.Size], dtype: torch.dtype) -> None:
    """Write random weights, in shards if they are large, of which one at a time is in memory."""
    generator = torch.Generator().manual_seed(0)

    def read(names: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
        return ((name, draw(name, shapes[name], generator).to(dtype)) for name in names)

    write_weights(folder, settings, {name: Entry(shape, dtype) for name, shape in shapes.items()}, read)


def draw(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Draw a parameter that keeps what passes through it finite."""
    if name.endswith("bias"):
        return torch.zeros(shape)
    if "norm" in name:
        return torch.ones(shape)
    return torch.randn(shape, generator=generator) / max(1, shape[1:].numel()) ** 0.5


if __name__ == "__main__":
    main()
