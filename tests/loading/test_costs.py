"""A small file costs little: whatever it claims, it is refused in one line before anything of that size is made."""

import json
import os
import shutil
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from causvid.config import AutoencoderConfig, GenerationConfig, TextConfig, TransformerConfig
from causvid.engine.latents import load_latents
from causvid.evaluate.classifier import AttributeClassifier
from causvid.files.checkpoint import open_checkpoint, read_json
from causvid.loading.autoencoders import read_autoencoder
from causvid.loading.bundle import read_settings
from causvid.loading.lora import read_lora
from causvid.loading.text import load_text_encoder
from causvid.loading.wan_config import read_config
from causvid.loading.weights import sniff
from causvid.media import probe, read_image, read_video
from causvid.opening import open_regular
from causvid.pipeline import Pipeline
from causvid.preset import load_preset
from causvid.timeline import Timeline

NANO = Path(str(resources.files("causvid"))) / "bundles" / "nano"
LITTLE = 64 * 2**20
"""Bytes of memory that a refusal may take in Python."""


def refused(act: Callable[[], Any], message: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises((ValueError, OSError), match=message) as caught:
            act()
        assert tracemalloc.get_traced_memory()[1] < LITTLE
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)


READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "weights": ("it.safetensors", open_checkpoint),
    "old weights": ("it.pt", open_checkpoint),
    "LoRA": ("it.safetensors", read_lora),
    "JSON": ("it.json", read_json),
    "timeline": ("it.json", Timeline.load),
    "TOML": ("it.toml", Timeline.load),
    "preset": ("it.toml", lambda path: load_preset(str(path))),
    "latents": ("it.safetensors", load_latents),
    "image": ("it.png", lambda path: read_image(path, height=8, width=8)),
    "video": ("it.mp4", lambda path: next(read_video(path, height=8, width=8, fps=8))),
    "a video's header": ("it.mp4", probe),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_pipe_a_device_and_a_folder_are_refused(tmp_path: Path, reader: str) -> None:
    name, read = READERS[reader]
    os.mkfifo(tmp_path / name)
    refused(lambda: read(tmp_path / name), name)
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("/dev/zero")
    refused(lambda: read(tmp_path / name), name)
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    refused(lambda: read(tmp_path / name), "")


@pytest.mark.parametrize("reader", ["JSON", "timeline", "TOML", "preset"])
def test_settings_of_a_gigabyte_are_refused(tmp_path: Path, reader: str) -> None:
    name, read = READERS[reader]
    with (tmp_path / name).open("wb") as file:
        file.truncate(2**30)
    refused(lambda: read(tmp_path / name), "has 1073741824 bytes, expected at most")


def test_a_session_that_is_a_pipe_is_refused(small: Pipeline, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "it")
    refused(lambda: small.resume(tmp_path / "it"), "is not a regular file")


def test_a_name_that_cannot_be_is_refused() -> None:
    for name, message in (("a" * 5000, "name too long"), ("", "does not exist")):
        with pytest.raises((ValueError, OSError), match=f"(?i){message}"):
            open_regular(name)


@pytest.mark.parametrize("where", ["data.pkl", "data/0"])
def test_a_file_of_pytorch_that_inflates_is_refused(tmp_path: Path, where: str) -> None:
    torch.save({"a": torch.zeros(9)}, tmp_path / "whole.pt")
    with zipfile.ZipFile(tmp_path / "whole.pt") as old, zipfile.ZipFile(tmp_path / "it.pt", "w") as new:
        for entry in old.infolist():
            data, big = old.read(entry.filename), entry.filename.endswith(where)
            kind = zipfile.ZIP_DEFLATED if big else zipfile.ZIP_STORED
            new.writestr(entry.filename, data + bytes(2**26) if big else data, kind)
    assert (tmp_path / "it.pt").stat().st_size < 300_000
    refused(lambda: open_checkpoint(tmp_path / "it.pt"), "is not a whole PyTorch file: it is compressed")


def test_a_pickle_of_a_gigabyte_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "it.pt", "w") as file:
        file.writestr("it/data.pkl", bytes(2**26 + 1))
        file.writestr("it/version", "3")
    refused(lambda: open_checkpoint(tmp_path / "it.pt"), "its pickle has more than 67108864 bytes")


def test_a_header_of_a_gigabyte_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "it.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", 2**30) + b"{")
        file.truncate(2**31)
    for read in (open_checkpoint, load_latents):
        refused(lambda read=read: read(tmp_path / "it.safetensors"), "header is too large")


@pytest.mark.parametrize("value", [10**9, 10**30, -1, 0, 2.5, "8", None, [], float("nan"), float("inf"), True])
@pytest.mark.parametrize("kind", [GenerationConfig, TransformerConfig, AutoencoderConfig, TextConfig])
def test_every_size_in_settings_is_bounded(kind: type, value: object) -> None:
    preset = load_preset("nano")
    own = {
        GenerationConfig: preset.generation,
        TransformerConfig: preset.transformer,
        AutoencoderConfig: preset.autoencoder,
        TextConfig: preset.text,
    }[kind].model_dump()
    numbers = [name for name, size in own.items() if isinstance(size, int | float) and not isinstance(size, bool)]
    assert numbers
    for name in numbers:
        try:
            made = kind.make(**{**own, name: value})  # type: ignore[attr-defined]
        except ValueError as error:
            assert name in str(error) or "clip_frames" in str(error) or "heads" in str(error)
            assert "\n" not in str(error)
        else:
            assert value is None or abs(getattr(made, name)) <= 2**20


@pytest.mark.parametrize(
    "change",
    [
        {"width": 8192},
        {"width": 10**9},
        {"fps": 1e-300},
        {"fps": 1e300},
        {"window": 10**9},
        {"chunk": 10**9},
        {"max_seconds": 1e300},
        {"timesteps": [1000 - number / 10 for number in range(2000)]},
    ],
)
def test_a_bundle_with_hostile_settings_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    own = load_preset("nano").generation.model_dump(mode="json")
    (tmp_path / "causvid.json").write_text(json.dumps({"format": 1, "generation": {**own, **change}}))
    refused(lambda: read_settings(tmp_path), next(iter(change)))


@pytest.mark.parametrize("name", ["num_layers", "num_attention_heads", "ffn_dim", "text_dim", "in_channels"])
def test_a_config_with_a_thousand_million_layers_is_refused(tmp_path: Path, name: str) -> None:
    sizes = {"num_layers": 2, "num_attention_heads": 1, "attention_head_dim": 128, "ffn_dim": 24, "text_dim": 8}
    sizes |= {"freq_dim": 32, "in_channels": 4, "out_channels": 4}
    settings = {"_class_name": "WanTransformer3DModel", "patch_size": [1, 2, 2], **sizes, name: 10**9}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    refused(lambda: read_config(tmp_path), "less than or equal")


@pytest.mark.parametrize("change", [{"base_dim": 10**9}, {"num_res_blocks": 10**9}, {"dim_mult": [1] * 10**4}])
def test_an_autoencoder_with_hostile_sizes_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKLWan", **change}))
    refused(lambda: read_autoencoder(tmp_path), next(iter(change)))


@pytest.mark.parametrize("value", [10**9, 10**30, -1, 0, 2.5, None, [], float("nan"), "8x"])
def test_a_text_encoder_with_hostile_sizes_is_refused(tmp_path: Path, value: object) -> None:
    own = json.loads((NANO / "text_encoder" / "config.json").read_text())
    for name in ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads", "relative_attention_num_buckets"):
        (tmp_path / "config.json").write_text(json.dumps({**own, name: value}))
        refused(lambda: load_text_encoder(tmp_path, NANO / "tokenizer"), f"config.json: {name}")


def test_a_bundle_with_endless_layers_of_text_encoder_is_refused(tmp_path: Path) -> None:
    shutil.copytree(NANO, tmp_path / "it")
    file = tmp_path / "it" / "text_encoder" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "num_layers": 10**9}))
    refused(lambda: Pipeline.from_pretrained(tmp_path / "it"), "num_layers")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 10**9}, "width"),
        ({"rows": 10**9}, "rows"),
        ({"frames": 0}, "frames"),
        ({"stills": -1}, "stills"),
        ({"vocabularies": {"a": 5}}, "vocabularies"),
        ({"vocabularies": {str(n): ["a", "b"] for n in range(100)}}, "vocabularies"),
        ({"vocabularies": {"a.b": ["a", "b"]}}, "a.b"),
        ({"more": 1}, "more"),
    ],
)
def test_a_classifier_with_hostile_sizes_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    own = json.loads((NANO / "classifier" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**own, **change}))
    refused(lambda: AttributeClassifier.load(tmp_path), message)


def gguf_text(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


@pytest.mark.parametrize("name", ["a\nb", "a\rb", "\x1b[2Ja", "a\0", "a\u2028b"])
@pytest.mark.parametrize("write", [save_file, torch.save])
def test_a_name_that_spoils_a_line_is_refused(tmp_path: Path, write: Callable[[Any, Path], None], name: str) -> None:
    write({name: torch.ones(2)}, tmp_path / "it")
    refused(lambda: open_checkpoint(tmp_path / "it"), "is not one of a weight")
    refused(lambda: read_lora(tmp_path / "it"), "is not one of a weight")


@pytest.mark.parametrize(
    ("tensors", "entries", "body", "message"),
    [
        (0, 1, gguf_text("a") + struct.pack("<IIQ", 9, 0, 2**40), "1099511627776 values"),
        (0, 1, gguf_text("a") + struct.pack("<IIQ", 9, 0, 3 * 10**6) + bytes(3 * 10**6), "3000000 values"),
        (0, 1, gguf_text("a") + struct.pack("<IIQ", 9, 8, 10**5) + bytes(64), "cut short"),
        (0, 1, gguf_text("a") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 5000, "an array of its header"),
        (0, 1, struct.pack("<Q", 2**62) + bytes(64), "cut short"),
        (0, 2**60, bytes(64), "states 1152921504606846976 entries"),
        (2**60, 0, bytes(64), "states 1152921504606846976 tensors"),
    ],
)
def test_a_gguf_that_claims_much_is_refused(
    tmp_path: Path, tensors: int, entries: int, body: bytes, message: str
) -> None:
    pytest.importorskip("gguf")
    (tmp_path / "it.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, tensors, entries) + body)
    refused(lambda: open_checkpoint(tmp_path / "it.gguf"), message)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda rules: rules["post_processor"]["single"][1]["SpecialToken"].update(id="evil"), "token 'evil'"),
        (lambda rules: rules["post_processor"]["special_tokens"]["</s>"].update(ids=[10**6]), "token 1000000, but"),
        (lambda rules: rules.update(model={}), "no readable tokenizer"),
        (lambda rules: rules.update(padding=[[]]), "no readable tokenizer"),
    ],
)
def test_a_hostile_tokenizer_is_refused(tmp_path: Path, spoil: Callable[[Any], None], message: str) -> None:
    shutil.copytree(NANO / "tokenizer", tmp_path / "it")
    file = tmp_path / "it" / "tokenizer.json"
    rules = json.loads(file.read_text())
    spoil(rules)
    file.write_text(json.dumps(rules))
    refused(lambda: load_text_encoder(NANO / "text_encoder", tmp_path / "it").embed(["a swan"]), message)


@pytest.mark.parametrize("number", ["999999999", "9" * 5000, "257"])
def test_a_block_of_a_high_number_is_refused(tmp_path: Path, number: str) -> None:
    state = {
        f"blocks.{number}.self_attn.q.weight": torch.zeros(2),
        "patch_embedding.weight": torch.zeros(128, 4, 1, 2, 2),
    }
    state |= {"blocks.0.ffn.0.weight": torch.zeros(4, 128), "text_embedding.0.weight": torch.zeros(128, 8)}
    state |= {"head.head.weight": torch.zeros(16, 128), "time_embedding.0.weight": torch.zeros(128, 32)}
    save_file(state, tmp_path / "it.safetensors")
    refused(lambda: sniff(tmp_path / "it.safetensors").check(), "layers|the weights do not fit")


@pytest.mark.parametrize("fps", ["0", "-1", "nan", "inf", "1e300", "1e-300", "1e9", "", "x", "[]"])
def test_latents_of_an_absurd_rate_are_refused(tmp_path: Path, fps: str) -> None:
    save_file({"latents": torch.zeros(1, 1, 4, 4, 6)}, tmp_path / "it.safetensors", metadata={"fps": fps})
    refused(lambda: load_latents(tmp_path / "it.safetensors"), "fps|holds no latents")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_latents_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    save_file({"latents": torch.full((1, 1, 4, 4, 6), value)}, tmp_path / "it.safetensors", metadata={"fps": "8"})
    refused(lambda: load_latents(tmp_path / "it.safetensors"), "not finite")


def test_a_timeline_of_ten_thousand_shots_is_refused(tmp_path: Path) -> None:
    shots = [{"at": number / 100, "prompt": "a"} for number in range(10_000)]
    (tmp_path / "it.json").write_text(json.dumps({"seconds": 200, "shots": shots}))
    refused(lambda: Timeline.load(tmp_path / "it.json"), "shots: Tuple should have at most 1000 items")
