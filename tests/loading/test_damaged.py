"""A damaged or hostile file gives one line that says what it is and what was expected; nothing runs, nothing loads."""

import argparse
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save, save_file
from torch import Tensor

from causvid.config import TransformerConfig
from causvid.files.checkpoint import Checkpoint, Entry
from causvid.loading.names import foreign_shapes, to_foreign
from causvid.loading.wan_config import to_wan_config
from causvid.loading.weights import load_transformer, sniff
from causvid.models.transformer import Transformer

CONFIG = TransformerConfig(dim=128, heads=1, layers=2, ffn_dim=24, text_dim=8, in_channels=4, out_channels=4)
USUAL = "diffusion_pytorch_model.safetensors"
State = dict[str, Tensor]


def wan(config: TransformerConfig = CONFIG) -> State:
    model = Transformer(config)
    model.initialise(torch.Generator().manual_seed(0))
    return to_foreign(model.state_dict(), config, "wan")


def whole() -> bytes:
    return save(wan())


def header(fields: object) -> bytes:
    text = json.dumps(fields).encode()
    return struct.pack("<Q", len(text)) + text


class Runs:
    """What a pickle runs when it is opened without care."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {os.environ['CAUSVID_TEST_TRACE']}",)


# Files of bytes: name, contents, what the line has to say.
BYTES: list[tuple[str, str, Callable[[], bytes], str]] = [
    ("empty", "it.safetensors", lambda: b"", "is empty, 0 bytes; fetch it again"),
    ("empty .pt", "it.pt", lambda: b"", "is empty"),
    ("seven bytes", "it.safetensors", lambda: whole()[:7], r"\(7 bytes\) is not a whole safetensors file: .*too small"),
    ("cut in the header", "it.safetensors", lambda: whole()[:200], "invalid header length; fetch or write it again"),
    ("cut in the data", "it.safetensors", lambda: whole()[:-5000], "not fully covered; fetch"),
    ("cut by a byte", "it.safetensors", lambda: whole()[:-1], "not fully covered; fetch"),
    ("a byte too many", "it.safetensors", lambda: whole() + b"x", "not fully covered; fetch"),
    ("zeros", "it.safetensors", lambda: bytes(4096), "is not a whole safetensors file: .*JSON"),
    ("header too long", "it.safetensors", lambda: struct.pack("<Q", 10**7) + whole()[8:], "invalid header length"),
    ("header of 2^62", "it.safetensors", lambda: struct.pack("<Q", 2**62) + whole()[8:], "header too large"),
    ("header too short", "it.safetensors", lambda: struct.pack("<Q", 60) + whole()[8:], "invalid JSON in header"),
    ("header not JSON", "it.safetensors", lambda: struct.pack("<Q", 4) + b"{{{{", "invalid JSON in header"),
    (
        "tensors that overlap",
        "it.safetensors",
        lambda: (
            header(
                {k: {"dtype": "F32", "shape": [2], "data_offsets": v} for k, v in {"a": [0, 8], "b": [4, 12]}.items()}
            )
            + bytes(12)
        ),
        "invalid offset for tensor `b`",
    ),
    (
        "a type of no weights",
        "it.safetensors",
        lambda: header({"blocks.0": {"dtype": "U64", "shape": [1], "data_offsets": [0, 8]}}) + bytes(8),
        "blocks.0 is of type U64, expected one of F64, F32",
    ),
    ("no tensors", "it.safetensors", lambda: header({}), "holds no tensors"),
    ("garbage", "it.safetensors", lambda: bytes(range(255, 0, -1)) * 9, "not a whole safetensors file: .*too large"),
    ("garbage .pt", "it.pt", lambda: b"\x80" + bytes(range(1, 255)) * 9, "not a whole PyTorch before 1.6 file"),
    ("text .bin", "it.bin", lambda: b"not found" * 9, "is neither safetensors nor a PyTorch file; fetch it again"),
    ("a web page", "it.safetensors", lambda: b"\n<!DOCTYPE html><html>", "is a web page, not weights; fetch the file"),
    (
        "a pointer",
        "it.safetensors",
        lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5676\n",
        "is a pointer of git-lfs, not the weights; run `git lfs pull`",
    ),
    ("GGUF", "it.gguf", lambda: b"GGUF\x03\0\0\0", r"\(8 bytes\) is not a whole GGUF file"),
    ("half a download", "it.safetensors.incomplete", lambda: whole()[:5000], "has not finished; fetch it again"),
]


def torch_file(content: object, **options: Any) -> Callable[[Path], object]:
    return lambda file: torch.save(content, file, **options)


def cut(keep: float, **options: Any) -> Callable[[Path], object]:
    def write(file: Path) -> None:
        torch.save({"generator": wan()}, file, **options)
        file.write_bytes(file.read_bytes()[: int(keep * file.stat().st_size)])

    return write


def zipped(compression: int, name: str) -> Callable[[Path], object]:
    def write(file: Path) -> None:
        torch.save({"a": torch.zeros(999)}, file.with_suffix(".whole"))
        with zipfile.ZipFile(file.with_suffix(".whole")) as old, zipfile.ZipFile(file, "w", compression) as new:
            for entry in old.infolist():
                new.writestr(name or entry.filename, old.read(entry.filename))
                if name:
                    break

    return write


# Files of PyTorch: how they are written, what the line has to say.
PICKLES: list[tuple[str, Callable[[Path], object], str]] = [
    ("cut early", cut(0.01), "is not a whole PyTorch file"),
    ("cut in the middle", cut(0.5), "is not a whole PyTorch file"),
    ("cut at the end", cut(0.999), "is not a whole PyTorch file"),
    ("old, cut", cut(0.7, _use_new_zipfile_serialization=False), "is not a whole PyTorch before 1.6 file"),
    (
        "code",
        torch_file({"generator": Runs()}),
        r"holds the Python object \w+\.system beside tensors and is not opened",
    ),
    ("code, old", torch_file({"a": Runs()}, _use_new_zipfile_serialization=False), r"Python object \w+\.system"),
    ("plain pickle", lambda file: file.write_bytes(pickle.dumps({"a": Runs()})), "pickle does not describe plain"),
    ("plain pickle 2", lambda file: file.write_bytes(pickle.dumps({"a": Runs()}, 2)), r"object \w+\.system"),
    ("a class", torch_file({"model": torch.nn.Linear(2, 2)}), r"object torch\.nn\.modules\.linear\.Linear beside"),
    ("options", torch_file({"a": torch.ones(2), "args": argparse.Namespace(x=1)}), r"object argparse\.Namespace"),
    ("a list", torch_file([torch.ones(2)]), "holds a list, expected a dict of tensors"),
    ("a tensor", torch_file(torch.ones(2)), "holds a Tensor, expected a dict"),
    ("no tensors", torch_file({"step": 3, "generator": {"x": 1}}), "holds no tensors, expected a dict"),
    ("numbers for names", torch_file({"a": {0: torch.ones(2)}}), "tensor 0 has no name"),
    ("repeated", torch_file({"a": torch.zeros(1).expand(10**6, 10**6)}), "a is no plain tensor .*1000000"),
    ("sparse", torch_file({"a": torch.eye(3).to_sparse()}), r"a is no plain tensor \(sparse_coo"),
    ("without data", torch_file({"a": torch.ones(3, device="meta")}), r"a is no plain tensor \(strided, meta"),
    ("another zip", zipped(zipfile.ZIP_STORED, "hello.txt"), "is not a whole PyTorch file"),
    ("a compressed zip", zipped(zipfile.ZIP_DEFLATED, ""), "is not a whole PyTorch file"),
]


def without(name: str) -> State:
    return {k: t for k, t in wan().items() if k != name}


def lora() -> State:
    name = "diffusion_model.blocks.0.self_attn.q"
    return {f"{name}.lora_A.weight": torch.ones(4, 128), f"{name}.lora_B.weight": torch.ones(128, 4)}


def eight_bit() -> State:
    state = {name: t.to(torch.float8_e4m3fn) if name.endswith(".q.weight") else t for name, t in wan().items()}
    return {**state, "scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}


# Whole files of other weights: the weights, what the line has to say.
WEIGHTS: list[tuple[str, Callable[[], State], str]] = [
    ("one missing", lambda: without("blocks.1.ffn.2.bias"), "the weights do not fit: missing blocks.1.ffn.2.bias$"),
    (
        "sizes missing",
        lambda: without("patch_embedding.weight"),
        "patch_embedding.weight is missing: its sizes are unknown",
    ),
    (
        "a number for weights",
        lambda: {**wan(), "text_embedding.0.weight": torch.tensor(3.0)},
        "text_embedding.0.weight is a single number, expected weights$",
    ),
    ("one too many", lambda: {**wan(), "blocks.0.gate.weight": torch.ones(2)}, "unknown blocks.0.gate.weight$"),
    (
        "one misspelt",
        lambda: {**without("blocks.0.ffn.2.bias"), "blocks.0.ffn.2.bais": torch.ones(128)},
        r"missing blocks.0.ffn.2.bias; unknown blocks.0.ffn.2.bais$",
    ),
    (
        "one misshapen",
        lambda: {**wan(), "blocks.1.cross_attn.k.weight": torch.ones(128, 127)},
        r"blocks.1.cross_attn.k.weight is \[128, 127\], expected \[128, 128\]$",
    ),
    (
        "one of integers",
        lambda: {**wan(), "head.head.bias": torch.ones(16, dtype=torch.int8)},
        "head.head.bias is int8",
    ),
    (
        "one twice",
        lambda: {**wan(), "model.head.head.bias": torch.ones(16)},
        "both .*head.head.bias.*, expected one of",
    ),
    (
        "no telling heads",
        lambda: wan(CONFIG.model_copy(update={"dim": 96})),
        "dim=96 is no multiple of 128, so the number of heads is ambiguous: put the model's config.json beside it",
    ),
    ("8 bits without factor", eight_bit, r"attn.q.weight is float8_e4m3fn and scaled, but its factor is missing"),
    (
        "8 bits with too many factors",
        lambda: {**wan(), "blocks.0.ffn.0.scale_weight": torch.ones(5)},
        "blocks.0.ffn.0.weight has 5 factors, expected one, or one for each row",
    ),
    ("a LoRA", lora, "is a LoRA, expected a Wan 2.1 text-to-video transformer"),
    ("a VAE", lambda: {"encoder.conv1.weight": torch.ones(2)}, r"is a video autoencoder \(VAE\), expected a Wan"),
    ("diffusers' VAE", lambda: {"encoder.conv_in.weight": torch.ones(2)}, r"is a video autoencoder \(VAE\)"),
    ("TAEHV", lambda: {"encoder.0.weight": torch.ones(2)}, r"is a tiny autoencoder \(TAEHV\), expected a Wan"),
    ("Wan's T5", lambda: {"token_embedding.weight": torch.ones(2)}, "is a T5 text encoder, expected a Wan"),
    ("transformers' T5", lambda: {"shared.weight": torch.ones(2)}, "is a T5 text encoder"),
    ("CLIP", lambda: {"visual.patch_embedding.weight": torch.ones(2)}, r"is an image encoder \(CLIP\)"),
    (
        "another architecture",
        lambda: {"double_blocks.0.img_attn.qkv.weight": torch.ones(2)},
        r"is a model of another kind, expected .* \(it holds double_blocks.0.img_attn.qkv.weight\)$",
    ),
    ("I2V", lambda: {**wan(), "img_emb.proj.0.weight": torch.ones(2)}, "another architecture: image-conditioned"),
    (
        "I2V in a block",
        lambda: {**wan(), "blocks.0.cross_attn.norm_k_img.weight": torch.ones(2)},
        "another architecture: image-conditioned",
    ),
    (
        "diffusers' I2V",
        lambda: {**wan(), "blocks.0.attn2.add_k_proj.weight": torch.ones(2)},
        "another architecture: image-conditioned",
    ),
    ("VACE", lambda: {**wan(), "vace_blocks.0.after_proj.weight": torch.ones(2)}, "another architecture: VACE"),
    ("Animate", lambda: {**wan(), "face_adapter.fuser_blocks.0.q": torch.ones(2)}, "architecture: Wan-Animate"),
    (
        "I2V of Wan 2.2",
        lambda: wan(CONFIG.model_copy(update={"in_channels": 36, "out_channels": 16})),
        "takes 36 channels and returns 16, expected as many: it is image-conditioned",
    ),
]


def check(path: Path, message: str, names: str | None = None, **options: Any) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load_transformer(path, **options)
    line = str(caught.value)
    assert "\n" not in line and str(names or path) in line


@pytest.mark.parametrize(("name", "content", "message"), [c[1:] for c in BYTES], ids=[c[0] for c in BYTES])
def test_damaged_bytes(tmp_path: Path, name: str, content: Callable[[], bytes], message: str) -> None:
    (tmp_path / name).write_bytes(content())
    check(tmp_path / name, message)


@pytest.mark.parametrize(("write", "message"), [c[1:] for c in PICKLES], ids=[c[0] for c in PICKLES])
def test_damaged_and_hostile_pickles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], object], message: str
) -> None:
    trace = tmp_path / "it ran"
    monkeypatch.setenv("CAUSVID_TEST_TRACE", f"'{trace}'")
    write(tmp_path / "it.pt")
    check(tmp_path / "it.pt", message)
    assert not trace.exists()


def test_the_hostile_pickle_would_run_where_it_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAUSVID_TEST_TRACE", f"'{tmp_path / 'it ran'}'")
    torch.save({"generator": Runs()}, tmp_path / "it.pt")
    torch.load(tmp_path / "it.pt", weights_only=False)
    assert (tmp_path / "it ran").exists()


@pytest.mark.parametrize(("state", "message"), [c[1:] for c in WEIGHTS], ids=[c[0] for c in WEIGHTS])
@pytest.mark.parametrize("nested", [False, True])
def test_weights_that_do_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: Callable[[], State], message: str, nested: bool
) -> None:
    file = tmp_path / ("it.pt" if nested else "it.safetensors")
    torch.save({"generator": state(), "critic": wan()}, file) if nested else save_file(state(), file)
    monkeypatch.setattr("causvid.files.checkpoint.Checkpoint.read", None)  # refused before a tensor is read
    check(file, message)


def test_wan_2_2_with_other_latents_is_refused(tmp_path: Path) -> None:
    sizes = {"dim": 3072, "heads": 24, "in_channels": 48, "out_channels": 48}
    shapes = foreign_shapes(CONFIG.model_copy(update=sizes), "wan")
    entries = {name: Entry(shape, torch.bfloat16) for name, shape in shapes.items()}
    with pytest.raises(ValueError, match=r"is Wan 2\.2's 5B model: its latents have 48 channels, expected 16"):
        sniff(Checkpoint(tmp_path / "it.safetensors", "safetensors", {"": entries}))


def index(folder: Path, change: Callable[[dict[str, str]], object] = lambda where: None) -> Path:
    """Write two shards and their index, changed."""
    state = wan()
    names = list(state)
    parts = {f"part-{number:05d}-of-00002.safetensors": names[number - 1 :: 2] for number in (1, 2)}
    for part, own in parts.items():
        save_file({name: state[name] for name in own}, folder / part)
    where = {name: part for part, own in parts.items() for name in own}
    change(where)
    (folder / f"{USUAL}.index.json").write_text(json.dumps({"weight_map": where}))
    return folder / f"{USUAL}.index.json"


def test_a_whole_index_opens(tmp_path: Path) -> None:
    index(tmp_path)
    assert load_transformer(tmp_path).config == CONFIG


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda where: where.update({"head.head.bias": "part-00003-of-00002.safetensors"}), "part-00003.* is missing"),
        (lambda where: where.update({"more": "part-00001-of-00002.safetensors"}), "lacks more, which the index places"),
        (lambda where: where.pop("head.head.bias"), "the weights do not fit: missing head.head.bias"),
        (
            lambda where: where.update({"head.head.bias": "../secret.safetensors"}),
            "'../secret.safetensors' is not a file",
        ),
        (lambda where: where.update({"head.head.bias": 3}), "weight_map is not a table"),
        (lambda where: where.clear(), "weight_map is not a table"),
    ],
)
def test_an_index_that_is_wrong(tmp_path: Path, change: Callable[[dict[str, str]], object], message: str) -> None:
    (tmp_path / "it").mkdir()
    save_file(wan(), tmp_path / "secret.safetensors")
    check(index(tmp_path / "it", change), message)


def test_shards_that_are_damaged_missing_or_without_index(tmp_path: Path) -> None:
    file = index(tmp_path)
    shard = tmp_path / "part-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    check(file, "part-00002-of-00002.safetensors .* is not a whole safetensors file", names=str(shard))
    shard.unlink()
    check(file, "shard part-00002-of-00002.safetensors is missing; fetch it too")
    file.write_text("{")
    check(file, "is not readable JSON")
    file.write_text("[1]")
    check(file, "is not a JSON object")
    file.unlink()
    check(tmp_path, r"holds shards such as part-00001-of-00002.safetensors without their index.json; fetch it too")


def test_folders_that_do_not_say_which_file(tmp_path: Path) -> None:
    check(tmp_path, r"holds no weights, expected an index.json or a file \.safetensors, \.gguf, \.pt")
    for name in ("a.safetensors", "b.pt"):
        (tmp_path / name).touch()
    check(tmp_path, "holds a.safetensors and b.pt: give the path of the one you mean")
    check(tmp_path / "nothing.pt", "is missing")
    (tmp_path / "folder.safetensors").mkdir()
    check(tmp_path / "folder.safetensors", "holds no weights")
    (tmp_path / "model_index.json").write_text("{}")
    check(tmp_path, "transformer is missing")


def test_sections_that_do_not_say_which(tmp_path: Path) -> None:
    torch.save({"critic": wan(), "teacher": wan()}, tmp_path / "it.pt")
    check(tmp_path / "it.pt", "has the sections critic, teacher: choose one with section=")
    assert load_transformer(tmp_path / "it.pt", section="teacher").config == CONFIG


def test_a_config_that_does_not_fit(tmp_path: Path) -> None:
    save_file(wan(), tmp_path / "it.safetensors")
    other = to_wan_config(CONFIG.model_copy(update={"layers": 3}))
    (tmp_path / "config.json").write_text(json.dumps(other))
    check(tmp_path / "it.safetensors", "missing blocks.2.modulation")
    (tmp_path / "config.json").write_text('{"_class_name": "WanModel", "dim": 128')
    check(tmp_path, "config.json is not readable JSON", names=str(tmp_path / "config.json"))
    (tmp_path / "config.json").write_text('{"_class_name": "WanModel", "model_type": "i2v"}')
    check(tmp_path, "model_type='i2v' is not supported, expected 't2v'", names=str(tmp_path / "config.json"))


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_file_that_must_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "it.safetensors").write_bytes(whole())
    (tmp_path / "it.safetensors").chmod(0)
    check(tmp_path / "it.safetensors", "cannot be read: Permission denied")
