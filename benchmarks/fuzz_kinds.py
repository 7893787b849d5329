"""What `fuzz.py` reads: valid inputs of every kind, how they are spoiled, and the code that reads them."""

import io
import json
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from fuzz_mutations import (
    Mutation,
    mutate_bytes,
    mutate_chunks,
    mutate_json,
    mutate_lines,
    mutate_pytorch,
    mutate_safetensors,
    mutate_toml,
)
from PIL import Image
from safetensors.torch import save_file

from causvid.config import AutoencoderConfig, TransformerConfig
from causvid.data.shards import Shards
from causvid.data.tar import read_index, to_npy, write_shard
from causvid.data.video_set import Manifest as SetManifest
from causvid.data.video_set import ShardFacts, VideoSet
from causvid.engine.latents import load_latents, save_latents
from causvid.evaluate.classifier import AttributeClassifier
from causvid.evaluate.videos import Manifest
from causvid.files.checkpoint import open_checkpoint, read_json
from causvid.loading.autoencoders import read_autoencoder, write_autoencoder
from causvid.loading.bundle import read_settings
from causvid.loading.lora import merge_lora, read_lora
from causvid.loading.names import to_foreign
from causvid.loading.text import load_text_encoder
from causvid.loading.wan_config import read_config
from causvid.loading.weights import load_transformer, sniff
from causvid.media import VideoWriter, read_image, read_video
from causvid.models.tiny_autoencoder import TinyAutoencoder
from causvid.models.transformer import Transformer
from causvid.pipeline import Pipeline
from causvid.preset import load_preset
from causvid.timeline import Timeline
from causvid.train.checkpoint import Progress, last_row, load_checkpoint, save_checkpoint

CPU = torch.device("cpu")
SIZES = TransformerConfig(dim=128, heads=1, layers=1, ffn_dim=8, text_dim=8, in_channels=4, out_channels=4)
TINY = AutoencoderConfig(encoder_widths=(4, 4, 4, 4), decoder_widths=(4, 4, 4, 4), blocks=1, latent_channels=4)


@dataclass
class Kind:
    """A reader, valid inputs for it, and what became of spoiled ones.

    file: the name an input gets, in `folder` beside what it needs. read: takes its path.
    """

    name: str
    file: str
    read: Callable[[Path], Any]
    seeds: list[bytes]
    mutations: tuple[Mutation, ...]
    folder: Path | None = None
    outcomes: Counter[str] = field(default_factory=Counter)
    worst_seconds: float = 0.0
    worst_bytes: int = 0
    growth: int = 0


def kinds(root: Path) -> list[Kind]:
    """Make valid inputs of every kind in a folder."""
    return [*_settings(root), *_training(root), *_media(root), *_weights(root), *_sessions(root)]


def _made(file: Path, write: Callable[[Path], object]) -> bytes:
    file.parent.mkdir(parents=True, exist_ok=True)
    write(file)
    return file.read_bytes()


def _model() -> Transformer:
    model = Transformer(SIZES)
    model.initialise(torch.Generator().manual_seed(0))
    return model


def _settings(root: Path) -> list[Kind]:
    shots = [{"at": 0, "prompt": "a"}, {"at": 1, "prompt": "b", "mode": "blend", "over": 0.5}]
    timeline = {"seconds": 2.0, "shots": shots, "seed": 3, "steps": 2, "lora": ["a:0.5"], "versions": {"torch": "2"}}
    toml = _made(root / "t.toml", lambda path: Timeline.make(**timeline).save(path))
    preset = b'name = "a"\nextends = "nano"\n[generation]\nwidth = 96\nfps = 12.0\ntimesteps = [1000, 500]\n'
    preset += b"[train.teacher]\nbatch = 4\n[transformer]\nlayers = 2\n[text]\nlayers = 1\n"
    own = {"format": 1, "generation": load_preset("nano").generation.model_dump(mode="json"), "provenance": {}}
    wan = {"_class_name": "WanTransformer3DModel", "patch_size": [1, 2, 2], "num_layers": 2, "num_attention_heads": 1}
    wan |= {"attention_head_dim": 128, "ffn_dim": 24, "text_dim": 8, "freq_dim": 32, "in_channels": 4}
    manifest = {"model": "a", "maker": "student", "steps": 4, "seconds": 1.0, "generation": own["generation"]}
    manifest |= {"videos": [{"file": "0.mkv", "prompt": {"text": "a", "labels": {"place": "sea"}}, "seed": 1}]}

    def of(name: str, file: str, read: Callable[[Path], Any], value: object) -> Kind:
        return Kind(name, file, read, [json.dumps(value).encode()], (mutate_bytes, mutate_json))

    return [
        of("any JSON", "a.json", read_json, timeline),
        of("timeline (JSON)", "a.json", Timeline.load, timeline),
        Kind("timeline (TOML)", "a.toml", Timeline.load, [toml], (mutate_bytes, mutate_toml)),
        Kind("preset (TOML)", "a.toml", lambda path: load_preset(str(path)), [preset], (mutate_bytes, mutate_toml)),
        of("settings of a bundle", "causvid.json", lambda path: read_settings(path.parent), own),
        of("config.json of Wan", "config.json", lambda path: read_config(path.parent), wan),
        of("manifest of videos", "manifest.json", lambda path: Manifest.load(path.parent), manifest),
    ]


def _training(root: Path) -> list[Kind]:
    rows = "".join(json.dumps({"step": n, "seconds": n / 2, "loss": 0.5}) + "\n" for n in range(4)).encode()
    layer = torch.nn.Linear(2, 2)
    state = {"model": layer, "optimizer": torch.optim.AdamW(layer.parameters())}
    saved = _made(root / "c.pt", lambda path: save_checkpoint(path, state, Progress(3, 1.5), settings={"seed": 0}))
    shards = Shards(root / "shards", 1)
    shards.save(0, {"a": torch.arange(6.0).view(2, 3)}, ["a swan", "a mammoth"])
    plain = _made(root / "s.safetensors", lambda p: save_file({"a": torch.ones(2, 3)}, p, {"captions": '["a", "b"]'}))
    shard = _made(root / "own" / "shard_000000.tar", _write_set)
    facts = ShardFacts(file="shard_000000.tar", samples=1, bytes=len(shard), sha256="0" * 64)
    manifest = SetManifest(format=1, fps=12, frames=7, models={}, settings={}, shards=(facts,), left_out={})
    generation = load_preset("nano").generation
    folder = root / "classifier"
    AttributeClassifier({"place": ("sea", "sky")}, width=2).save(folder)

    def batch(path: Path) -> None:
        data = VideoSet.open(path.parent, generation, size=(16, 4, 6), device=CPU)
        data.batch(2, frames=5, generator=torch.Generator().manual_seed(0))

    def members(path: Path) -> None:
        for sample in read_index(path).values():
            for name, member in sample.items():
                if name.endswith("npy"):
                    member.array(zlib.crc32(member.read()))

    return [
        Kind(
            "metrics of training",
            "metrics.jsonl",
            lambda path: last_row(path.parent),
            [rows],
            (mutate_bytes, mutate_lines),
            root / "metrics",
        ),
        Kind(
            "checkpoint of training",
            "checkpoint.pt",
            lambda path: load_checkpoint(path, state, settings={"seed": 0}, device=CPU),
            [saved],
            (mutate_bytes, mutate_pytorch),
        ),
        Kind(
            "shard of training",
            "shard_0000.safetensors",
            lambda path: Shards(path.parent, 1).read("a", device=CPU),
            [shards.path(0).read_bytes(), plain],
            (mutate_bytes, mutate_safetensors),
        ),
        Kind(
            "manifest of a set",
            "manifest.json",
            batch,
            [manifest.model_dump_json().encode()],
            (mutate_bytes, mutate_json),
            root / "own",
        ),
        Kind("shard of a set", "shard.tar", members, [shard], (mutate_bytes,)),
        Kind(
            "config.json of a classifier",
            "config.json",
            lambda path: AttributeClassifier.load(path.parent),
            [(folder / "config.json").read_bytes()],
            (mutate_bytes, mutate_json),
            folder,
        ),
    ]


def _write_set(path: Path) -> None:
    latents, text = to_npy(np.zeros((7, 16, 4, 6), np.float16)), to_npy(np.zeros((2, 128), np.float16))
    facts = {"frames": 7, "size": [16, 4, 6], "crc": [zlib.crc32(latents), zlib.crc32(text)]}
    members = {"latents.npy": latents, "text.npy": text, "txt": b"a swan", "json": json.dumps(facts).encode()}
    write_shard(path, [("00000000", members)])


def _media(root: Path) -> list[Kind]:
    noise = np.random.default_rng(0).integers(0, 256, (6, 32, 48, 3), np.uint8)
    samples = Path(__file__).parent.parent / "tests" / "samples"

    def video(path: Path) -> None:
        with VideoWriter(path, fps=8, height=32, width=48) as writer:
            writer.write(noise)

    pictures = [
        _made(root / f"a.{suffix}", Image.fromarray(noise[0]).save)
        for suffix in ("png", "jpg", "webp", "tiff", "gif", "bmp", "ppm", "avif", "jp2")
    ]
    pictures += [(samples / name).read_bytes() for name in ("exif.png", "p3.jpg", "g16trns.png")]
    films = [_made(root / name, video) for name in ("v.mp4", "v.webm", "v.mkv", "v.gif")]
    return [
        Kind(
            "picture",
            "a.png",
            lambda path: read_image(path, height=32, width=32),
            pictures,
            (mutate_bytes, mutate_chunks),
        ),
        Kind(
            "video",
            "a.mp4",
            lambda path: list(read_video(path, height=32, width=32, fps=8)),
            [*films, *pictures[:3], (samples / "an.webp").read_bytes()],
            (mutate_bytes,),
        ),
    ]


def _gguf(state: dict[str, torch.Tensor], path: Path) -> None:
    writer, kind = gguf.GGUFWriter(path, "wan"), gguf.GGMLQuantizationType.Q8_0
    for name, tensor in state.items():
        values = tensor.numpy()
        if values.ndim > 4:
            writer.add_array(f"comfy.gguf.orig_shape.{name}", list(values.shape))
            values = values.reshape(values.shape[0], -1)
        if values.ndim == 2 and values.shape[1] % 32 == 0:
            writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _weights(root: Path) -> list[Kind]:
    model = _model()
    state = to_foreign(model.state_dict(), SIZES, "wan")
    quantised = {name: tensor for name, tensor in state.items()}
    quantised["blocks.0.ffn.0.weight"] = state["blocks.0.ffn.0.weight"].to(torch.float8_e4m3fn)
    quantised["blocks.0.ffn.0.scale_weight"] = torch.ones(1)
    layer = "blocks.0.self_attn.q.lora_"
    lora = {f"{layer}A.weight": torch.ones(2, 128), f"{layer}B.weight": torch.ones(128, 2)}
    kohya = {
        "lora_unet_blocks_0_ffn_0.lora_down.weight": torch.ones(2, 128),
        "lora_unet_blocks_0_ffn_0.alpha": torch.ones(()),
    }
    kohya |= {"lora_unet_blocks_0_ffn_0.lora_up.weight": torch.ones(8, 2), "blocks.0.diff_m": torch.ones(1, 6, 128)}
    words = {"lora_adapter_metadata": json.dumps({"r": 2, "lora_alpha": 4, "alpha_pattern": {"blocks.*q": 8}})}
    packed = _made(root / "w.gguf", lambda path: _gguf(state, path))
    index = {"metadata": {"total_size": 9}, "weight_map": {name: "model-00001-of-00001.safetensors" for name in state}}
    _made(root / "sharded" / "model-00001-of-00001.safetensors", lambda path: save_file(state, path))
    tiny = TinyAutoencoder(TINY)
    write_autoencoder(root / "vae", tiny, dtype=torch.float32)
    text = Path(str(Pipeline.from_pretrained().bundle.folder))
    wide = {"generator": state, "step": 3}

    def pytorch(content: object) -> bytes:
        file = io.BytesIO()
        torch.save(content, file)
        return file.getvalue()

    def embed(path: Path) -> None:
        encoder, tokenizer = text / "text_encoder", text / "tokenizer"
        if path.name == "tokenizer.json":
            tokenizer = path.parent
        elif path.name == "config.json":
            encoder = path.parent
        else:
            encoder = path
        load_text_encoder(encoder, tokenizer).embed(["a red swan over the sea"])

    def merged(path: Path) -> None:
        merge_lora(model, read_lora(path))

    safe = (mutate_bytes, mutate_safetensors)
    for name, source in (("encoder", "text_encoder/model.safetensors"), ("tokens", "tokenizer/tokenizer_config.json")):
        file = text / source
        _made(root / name / file.name, lambda path, file=file: path.write_bytes(file.read_bytes()))
    return [
        Kind("LoRA", "a.safetensors", merged, [
            _made(root / "l1.safetensors", lambda path: save_file(lora, path, metadata=words)),
            _made(root / "l2.safetensors", lambda path: save_file(kohya, path, metadata={"ss_network_alpha": "4"})),
        ], safe),
        Kind("LoRA (PyTorch)", "a.pt", merged, [pytorch({"generator_lora": lora})], (mutate_bytes, mutate_pytorch)),
        Kind("weights (safetensors)", "a.safetensors", load_transformer, [
            _made(root / "w1.safetensors", lambda path: save_file(state, path)),
            _made(root / "w2.safetensors", lambda path: save_file(quantised, path)),
        ], safe),
        Kind("weights (PyTorch)", "a.pt", load_transformer, [pytorch(wide)], (mutate_bytes, mutate_pytorch)),
        Kind("weights (GGUF)", "a.gguf", load_transformer, [packed], (mutate_bytes,)),
        Kind("index of shards", "model.safetensors.index.json", lambda path: sniff(open_checkpoint(path)),
             [json.dumps(index).encode()], (mutate_bytes, mutate_json), root / "sharded"),
        Kind("config.json of an autoencoder", "config.json", lambda path: read_autoencoder(path.parent),
             [(root / "vae" / "config.json").read_bytes()], (mutate_bytes, mutate_json), root / "vae"),
        Kind("config.json of a text encoder", "config.json", embed,
             [(text / "text_encoder" / "config.json").read_bytes()], (mutate_bytes, mutate_json), root / "encoder"),
        Kind("text encoder (safetensors)", "a.safetensors", embed,
             [(Path(__file__).parent.parent / "tests" / "samples" / "comfy_fp16.safetensors").read_bytes()], safe),
        Kind("tokenizer.json", "tokenizer.json", embed,
             [(text / "tokenizer" / "tokenizer.json").read_bytes()], (mutate_bytes, mutate_json), root / "tokens"),
    ]  # fmt: skip


def _sessions(root: Path) -> list[Kind]:
    pipeline = Pipeline.from_pretrained()
    stream = pipeline.stream("a red swan", steps=1)
    next(stream)
    latents = _made(root / "x.safetensors", lambda path: save_latents(path, torch.ones(1, 2, 4, 4, 6), fps=8))
    safe = (mutate_bytes, mutate_safetensors)
    return [
        Kind("latents", "a.safetensors", load_latents, [latents], safe),
        Kind(
            "session",
            "a.session",
            lambda path: next(pipeline.resume(path)),
            [_made(root / "a.session", stream.save)],
            safe,
        ),
    ]
