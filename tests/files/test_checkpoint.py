"""Files of weights open by names, shapes and types, and reading takes what it was asked for."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file
from torch import Tensor

from causvid.files.checkpoint import Checkpoint, Entry, choose_weights, open_checkpoint

TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)
FORMATS = ("single.safetensors", "sharded.safetensors.index.json", "new.pt", "old.pth", "sharded.bin.index.json")


def state(name: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    types = TYPES[:3] if name == "old.pth" else TYPES  # 8-bit floats are younger than that format
    tensors = {f"w{index}": torch.randn(3, 5, generator=generator).to(dtype) for index, dtype in enumerate(types)}
    # Seven elements, so that what follows lies at an odd address.
    return {"odd": tensors["w2"].flatten()[:7].clone(), **tensors, "scalar": torch.tensor(2.5)}


def write(folder: Path, name: str, tensors: dict[str, Tensor]) -> Path:
    file = folder / name
    if name.endswith(".index.json"):
        suffix = name.split(".")[1]
        parts = {f"{number}.{suffix}": list(tensors)[number::2] for number in range(2)}
        for part, names in parts.items():
            write(folder, part, {name: tensors[name] for name in names})
        where = {name: part for part, names in parts.items() for name in names}
        file.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    elif name.endswith(".safetensors"):
        save_file(tensors, file)
    else:
        torch.save(tensors, file, _use_new_zipfile_serialization=name != "old.pth")
    return file


def contents(checkpoint: Checkpoint, section: str = "") -> dict[str, Tensor]:
    return dict(checkpoint.read(list(checkpoint.sections[section]), section=section))


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_back_every_bit_in_its_type_at_an_even_address(tmp_path: Path, name: str) -> None:
    expected = state(name)
    checkpoint = open_checkpoint(write(tmp_path, name, expected))
    assert checkpoint.sections[""] == {k: Entry(t.shape, t.dtype) for k, t in expected.items()}
    assert all(file.is_file() for file in checkpoint.files)
    found = contents(checkpoint)
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert found[key].dtype == tensor.dtype and found[key].shape == tensor.shape
        assert torch.equal(found[key].float(), tensor.float())
        assert found[key].data_ptr() % 64 == 0 and found[key].is_contiguous()


@pytest.mark.parametrize("name", FORMATS)
def test_some_tensors_are_read_in_another_type(tmp_path: Path, name: str) -> None:
    expected = state(name)
    checkpoint = open_checkpoint(write(tmp_path, name, expected))
    found = dict(checkpoint.read(["w2", "w0"], dtype=torch.bfloat16))
    assert found.keys() == {"w0", "w2"}
    for key in found:
        assert torch.equal(found[key], expected[key].to(torch.bfloat16))
    with pytest.raises(ValueError, match="there is no tensor nothing"):
        list(checkpoint.read(["nothing"]))


def test_nested_state_dicts_are_sections_and_what_is_no_tensor_is_left_out(tmp_path: Path) -> None:
    parts = {"generator": {"a": torch.ones(2)}, "critic": {"a": torch.zeros(2, 2)}, "step": 7, "note": {"x": "y"}}
    torch.save({**parts, "flat": torch.ones(1)}, tmp_path / "it.pt")
    checkpoint = open_checkpoint(tmp_path / "it.pt")
    assert {name: list(entries) for name, entries in checkpoint.sections.items()} == {
        "": ["flat"],
        "generator": ["a"],
        "critic": ["a"],
    }
    assert torch.equal(contents(checkpoint, "critic")["a"], torch.zeros(2, 2))


def test_views_and_parameters_are_read_as_plain_tensors(tmp_path: Path) -> None:
    whole = torch.arange(12.0).view(3, 4)
    torch.save({"turned": whole.T, "row": whole[1], "trained": torch.nn.Parameter(whole)}, tmp_path / "it.pt")
    found = contents(open_checkpoint(tmp_path / "it.pt"))
    assert torch.equal(found["turned"], whole.T) and torch.equal(found["row"], whole[1])
    assert not found["trained"].requires_grad


def test_the_contents_decide_the_format_not_the_name(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "it.bin")
    torch.save({"a": torch.ones(2)}, tmp_path / "it.ckpt")
    assert open_checkpoint(tmp_path / "it.bin").format == "safetensors"
    assert open_checkpoint(tmp_path / "it.ckpt").format == "PyTorch"


@pytest.mark.parametrize("length", [int.from_bytes(start, "little") for start in (b" <", b"PK", b"\x80\x01")])
def test_a_header_whose_length_looks_like_another_format_is_read(tmp_path: Path, length: int) -> None:
    content = save({"a": torch.ones(2)})
    start = 8 + int.from_bytes(content[:8], "little")
    padded = length.to_bytes(8, "little") + content[8:start].ljust(length) + content[start:]
    (tmp_path / "it.bin").write_bytes(padded)
    assert torch.equal(contents(open_checkpoint(tmp_path / "it.bin"))["a"], torch.ones(2))


def test_a_folder_stands_for_its_index_its_only_file_or_the_usual_name(tmp_path: Path) -> None:
    for number, (names, expected) in enumerate(
        [
            (("model.pt", "config.json"), "model.pt"),
            (("diffusion_pytorch_model.safetensors", "Wan2.1_VAE.pth"), "diffusion_pytorch_model.safetensors"),
            (("model.safetensors", "pytorch_model.bin"), "model.safetensors"),
            (
                (
                    "diffusion_pytorch_model-00001-of-00002.safetensors",
                    "diffusion_pytorch_model-00002-of-00002.safetensors",
                    "diffusion_pytorch_model.safetensors.index.json",
                    "Wan2.1_VAE.pth",
                ),
                "diffusion_pytorch_model.safetensors.index.json",
            ),
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name in names:
            (folder / name).touch()
        assert choose_weights(folder).name == expected
