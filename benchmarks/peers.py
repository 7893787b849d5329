"""Time a student's pass beside the same pass, with the same weights, in the code of CausVid and Self Forcing.

    python benchmarks/peers.py --causvid CHECKOUT --self-forcing CHECKOUT --json docs/benchmarks/peers.json

The checkouts are clones of https://github.com/tianweiy/CausVid and https://github.com/guandeh17/Self-Forcing, whose
code needs `pip install einops`. It runs as it is, eager, but for flash attention, which no CPU has: both get torch's
own, as ours does. A pass is one denoising step of a chunk of 3 latent frames whose window is full, everyone's prompt
and history cached.
"""

import argparse
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from causvid.bench.timing import alternate
from causvid.config import TransformerConfig
from causvid.engine.memory import describe_machine
from causvid.loading.inductor import InductorPasses
from causvid.loading.names import to_foreign
from causvid.models.transformer import Transformer

CHUNK, SIGMA, TOKENS = 3, 0.75, 24
SHAPES = {
    "nano: 192 x 6, 8 x 12 latents, window 3": ((192, 3, 6, 768), (8, 12), 3),
    "256 x 8, 14 x 24 latents, window 9": ((256, 4, 8, 1024), (14, 24), 9),
    "384 x 8, 24 x 24 latents, window 12": ((384, 6, 8, 1536), (24, 24), 12),
}
PEERS = {
    "causvid": ("causvid.models.wan", "causvid/models/wan", "wan_base.modules", "causal_model"),
    "self-forcing": ("wan", "wan", "modules", "modules.causal_model"),
}
Pass = Callable[[Tensor, float, int], Tensor]


def main() -> None:
    """Time every shape and print or write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in PEERS:
        parser.add_argument(f"--{name}", type=Path, metavar="CHECKOUT", help="a clone of it")
    parser.add_argument("--seconds", type=float, default=20, help="of alternating runs, for every shape")
    parser.add_argument("--json", type=Path, help="where the record is written")
    options = parser.parse_args()
    places = {name: getattr(options, name.replace("-", "_")) for name in PEERS}
    classes = {name: causal_model(name, place) for name, place in places.items() if place is not None}
    if not classes:
        parser.error("name a checkout: " + ", ".join(f"--{name}" for name in PEERS))
    record = {
        "command": "python benchmarks/peers.py" + "".join(f" --{name} CHECKOUT" for name in classes),
        "machine": describe_machine(),
        "shapes": {shape: measure(shape, classes, options.seconds) for shape in SHAPES},
    }
    print(json.dumps(record, indent=2))
    if options.json is not None:
        options.json.write_text(json.dumps(record, indent=2) + "\n")


def causal_model(name: str, checkout: Path) -> Any:
    """Import a peer's causal transformer without the rest of its package."""
    root, folder, inner, module = PEERS[name]
    names = root.split(".") + inner.split(".")
    start = len(root.split("."))
    for end in range(start, len(names) + 1):
        package = ModuleType(".".join(names[:end]))
        package.__path__ = [str(checkout.joinpath(folder, *names[start:end]))]
        sys.modules[package.__name__] = package
    attention: Any = ModuleType(f"{root}.{inner}.attention")
    attention.attention = attention.flash_attention = attend
    sys.modules[attention.__name__] = attention
    return importlib.import_module(f"{root}.{module}").CausalWanModel


def attend(q: Tensor, k: Tensor, v: Tensor, **_: object) -> Tensor:
    """Attention over `[B, L, N, K]`, for flash attention's arguments."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def peer(made: Any, ours: Transformer, *, window: int, tokens: int, prompt: Tensor) -> Pass:
    """Give a peer our weights; return its pass over a chunk that begins at a latent frame."""
    config = ours.config
    local = {"local_attn_size": window + CHUNK} if made.__module__.startswith("wan.") else {}
    model = made(
        model_type="t2v", patch_size=(1, config.patch, config.patch), text_len=TOKENS, in_dim=config.in_channels,
        dim=config.dim, ffn_dim=config.ffn_dim, freq_dim=config.freq_dim, text_dim=config.text_dim,
        out_dim=config.out_channels, num_heads=config.heads, num_layers=config.layers, qk_norm=True,
        cross_attn_norm=True, eps=config.eps, **local,
    )  # fmt: skip
    model.load_state_dict(to_foreign(ours.state_dict(), config, "wan"))
    model.eval().requires_grad_(False)
    for part in model.modules():
        if hasattr(part, "max_attention_size"):
            part.max_attention_size = (window + CHUNK) * tokens

    def room() -> Tensor:
        return torch.zeros(1, (window + CHUNK) * tokens, config.heads, config.head_dim)

    blocks = range(config.layers)
    past = [{"k": room(), "v": room(), **{f"{kind}_end_index": torch.tensor([0]) for kind in ("global", "local")}}
            for _ in blocks]  # fmt: skip
    text: list[dict[str, Any]] = [{"is_init": False, "k": None, "v": None} for _ in blocks]

    def run(x: Tensor, sigma: float, frame: int) -> Tensor:
        end = {} if local else {"current_end": (frame + CHUNK) * tokens}
        found = model(
            x.transpose(1, 2), t=torch.full((1, CHUNK), 1000 * sigma), context=[prompt], seq_len=CHUNK * tokens,
            kv_cache=past, crossattn_cache=text, current_start=frame * tokens, **end,
        )  # fmt: skip
        velocity: Tensor = found.transpose(1, 2)
        return velocity

    return run


@torch.inference_mode()
def measure(shape: str, classes: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Return milliseconds of a pass by everyone, how many times as fast ours are, and their distance from peers."""
    (dim, heads, layers, ffn), (height, width), window = SHAPES[shape]
    config = TransformerConfig(dim=dim, heads=heads, layers=layers, ffn_dim=ffn, text_dim=128)
    generator = torch.Generator().manual_seed(0)
    model = Transformer(config).eval().requires_grad_(False)
    model.initialise(generator)
    model.head.weight.normal_(std=0.05, generator=generator)
    prompt = torch.randn(TOKENS, 128, generator=generator)
    text = model.encode_text(prompt[None])
    cache = model.new_cache(batch=1, height=height, width=width, window=window, sink=0, chunk=CHUNK)
    tokens = cache.tokens_per_frame
    peers = {name: peer(made, model, window=window, tokens=tokens, prompt=prompt) for name, made in classes.items()}

    def latents() -> Tensor:
        return torch.randn(1, CHUNK, config.in_channels, height, width, generator=generator)

    for frame in range(0, window, CHUNK):
        x = latents()
        model(x, torch.zeros(1, CHUNK), text, cache=cache, commit=True)
        for run in peers.values():
            run(x, 0, frame)
    x, sigma = latents(), torch.full((1, CHUNK), SIGMA)
    compiled = InductorPasses(model)

    def ours(accelerated: Any) -> Callable[[], Tensor]:
        def run() -> Tensor:
            model.accelerated = accelerated
            velocity: Tensor = model(x, sigma, text, cache=cache)
            return velocity

        return run

    works: dict[str, Callable[[], Tensor]] = {"ours": ours(None), "ours, --accelerate inductor": ours(compiled)}
    own = list(works)
    for name, run in peers.items():
        works[name] = lambda run=run: run(x, SIGMA, window)  # type: ignore[misc]
    made = {name: work() for name, work in works.items()}
    took = alternate(works, seconds=seconds)
    return {
        "ms": {name: round(1000 * taken, 1) for name, taken in took.items()},
        "times as fast": {o: {name: round(took[name] / took[o], 2) for name in peers} for o in own},
        "relative error": {o: {name: error(made[o], made[name]) for name in peers} for o in own},
    }


def error(ours: Tensor, theirs: Tensor) -> float:
    """Return the largest difference, relative to the largest value."""
    return float(f"{(ours - theirs).abs().max() / theirs.abs().max():.1e}")


if __name__ == "__main__":
    main()
