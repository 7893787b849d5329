"""Write a Wan 2.1 with random weights in diffusers' layout, to measure memory and speed without a download.

    python benchmarks/synthetic_wan.py runs/wan --preset wan-1.3b
    causvid plan --model runs/wan --student runs/wan/transformer --measure -o docs/benchmarks/wan-1.3b.json

Sizes are a preset's, except that the text encoder has few layers and knows few words. What it makes is noise.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from causvid.config import TransformerConfig
from causvid.loading.names import foreign_shapes
from causvid.loading.wan_config import to_diffusers_config
from causvid.models.text import TextEncoder, train_tokenizer
from causvid.preset import load_preset

SHARD = 512 * 2**20
WORDS = ["a red paper airplane over a lake", "a blue swan in the snow at night"]
WEIGHTS = "diffusion_pytorch_model"
INDEX = {
    "_class_name": "WanPipeline",
    "transformer": ["diffusers", "WanTransformer3DModel"],
    "vae": ["diffusers", "AutoencoderKLWan"],
    "text_encoder": ["transformers", "UMT5EncoderModel"],
    "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
}


def main() -> None:
    """Write the folder that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--preset", default="wan-1.3b", help="a preset's name or .toml file")
    parser.add_argument("--text-layers", type=int, default=1)
    parser.add_argument("--autoencoder-width", type=int, default=96, help="96 is Wan's")
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    given = parser.parse_args()
    preset, dtype = load_preset(given.preset), getattr(torch, given.dtype)
    generator = torch.Generator().manual_seed(0)

    given.folder.mkdir(parents=True)
    write_transformer(given.folder / "transformer", preset.transformer, dtype, generator)
    write_autoencoder(given.folder / "vae", given.autoencoder_width, dtype, generator)
    sizes = preset.text.model_copy(update={"layers": given.text_layers})
    text = TextEncoder.create(sizes, train_tokenizer(WORDS), generator=generator)
    text.save(given.folder / "text_encoder", given.folder / "tokenizer", dtype=dtype)
    write_json(given.folder / "model_index.json", INDEX)


def write_transformer(
    folder: Path, config: TransformerConfig, dtype: torch.dtype, generator: torch.Generator, *, shard: int = SHARD
) -> None:
    """Write random weights in shards, so that no more than one of them is ever in memory."""
    folder.mkdir()
    write_json(folder / "config.json", to_diffusers_config(config))
    shapes = foreign_shapes(config, "diffusers")
    parts = list(split(shapes, shard // dtype.itemsize))
    where: dict[str, str] = {}
    for number, names in enumerate(parts, 1):
        file = f"{WEIGHTS}-{number:05d}-of-{len(parts):05d}.safetensors"
        save_file({name: draw(name, shapes[name], generator).to(dtype) for name in names}, folder / file)
        where |= dict.fromkeys(names, file)
    total = sum(shape.numel() for shape in shapes.values()) * dtype.itemsize
    write_json(folder / f"{WEIGHTS}.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": where})


def write_autoencoder(folder: Path, width: int, dtype: torch.dtype, generator: torch.Generator) -> None:
    """Write an autoencoder with random weights; 96 is Wan's width."""
    from diffusers import AutoencoderKLWan

    with torch.device("meta"):
        model = AutoencoderKLWan(base_dim=width)
    model.save_config(folder)
    state = {name: draw(name, tensor.shape, generator).to(dtype) for name, tensor in model.state_dict().items()}
    save_file(state, folder / f"{WEIGHTS}.safetensors")


def split(shapes: dict[str, torch.Size], most: int) -> Iterator[list[str]]:
    """Deal names out into lists of at most `most` values, or of one name."""
    names: list[str] = []
    size = 0
    for name, shape in shapes.items():
        if names and size + shape.numel() > most:
            yield names
            names, size = [], 0
        names.append(name)
        size += shape.numel()
    yield names


def draw(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Draw a parameter that keeps what passes through it finite."""
    if name.endswith("bias"):
        return torch.zeros(shape)
    if "norm" in name:
        return torch.ones(shape)
    return torch.randn(shape, generator=generator) / max(1, shape[1:].numel()) ** 0.5


def write_json(file: Path, value: object) -> None:
    """Write a value as JSON."""
    file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
