"""Shards come back as they were written, or are refused by name."""

import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from causvid.data.shards import Shards, is_whole, load_tensors

CPU = torch.device("cpu")


def stored(folder: Path) -> Shards:
    shards = Shards(folder / "pairs", 1)
    tensors = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2, dtype=torch.bfloat16), "c": torch.tensor(True)}
    shards.save(0, tensors, ["a swan", "a blue mammoth, é"])
    return shards


def test_no_flipped_bit_of_a_shard_changes_what_is_read(tmp_path: Path) -> None:
    shards = stored(tmp_path)
    file = shards.path(0)
    whole, (latents, captions) = file.read_bytes(), shards.read("a", device=CPU)
    refused = 0
    for bit in random.Random(0).sample(range(8 * len(whole)), 400):
        spoiled = bytearray(whole)
        spoiled[bit // 8] ^= 1 << bit % 8
        file.write_bytes(spoiled)
        try:
            found, said = shards.read("a", device=CPU)
        except ValueError as error:
            assert str(file) in str(error) and "\n" not in str(error)
            refused += 1
        else:  # a space after the header, or the name of the checksum
            assert torch.equal(found, latents) and said == captions
    assert refused > 300


def test_a_spoiled_shard_is_made_again_and_a_whole_one_kept(tmp_path: Path) -> None:
    shards = stored(tmp_path)
    made: list[int] = []
    shards.repair(made.append)
    assert not made
    content = bytearray(shards.path(0).read_bytes())
    content[-1] ^= 1
    shards.path(0).write_bytes(content)
    shards.repair(made.append)
    assert made == [0]
    with pytest.raises(ValueError, match=r"shard_0000.safetensors is damaged .*: run `causvid train pairs` again"):
        shards.read("a", device=CPU)


@pytest.mark.parametrize(
    ("tensor", "captions"),
    [
        (torch.tensor(1.0), '["a"]'),
        (torch.ones(2), "5"),
        (torch.ones(2), "[5]"),
        (torch.ones(2), "[" * 100_000),
        (torch.ones(2), ""),
    ],
)
def test_a_shard_of_something_else_is_refused(tmp_path: Path, tensor: torch.Tensor, captions: str) -> None:
    save_file({"a": tensor}, tmp_path / "shard_0000.safetensors", metadata={"captions": captions})
    with pytest.raises(ValueError, match="has no a with captions: delete it, and it is made again"):
        Shards(tmp_path, 1).read("a", device=CPU)


def test_a_shard_of_another_shape_than_the_first_is_refused(tmp_path: Path) -> None:
    for number, shape in enumerate(((2, 3), (2, 4))):
        path = tmp_path / f"shard_000{number}.safetensors"
        save_file({"a": torch.ones(shape)}, path, metadata={"captions": "[]"})
    with pytest.raises(ValueError, match=r"shard_0001\.safetensors has no a"):
        Shards(tmp_path, 2).read("a", device=CPU)


def test_a_file_without_a_checksum_is_read(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors", metadata={"captions": "[]"})
    assert is_whole(tmp_path / "a.safetensors")
    assert torch.equal(load_tensors(tmp_path / "a.safetensors", made_by="data")["a"], torch.ones(2))
