"""A run goes from machine to machine in a few small files and continues there."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from causvid import cli
from causvid.pipeline import Pipeline
from causvid.train import handoff, stages
from causvid.train.handoff import MIB, pack, unpack


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """Cut the parcels of the smallest run into several pieces, too."""
    monkeypatch.setattr(handoff, "PIECE", 400_000)


@pytest.fixture
def halfway(chain, tmp_path) -> Path:
    """A run whose teacher was interrupted after one step."""
    folder = chain.copy(tmp_path / "halfway", without=("teacher", "decoder", "pairs", "ode", "dmd"))
    assert not stages.run("teacher", "test", folder, max_minutes=0)
    return folder


def tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [tensor for part in parts for tensor in tensors(part)]


def state(folder: Path, stage: str) -> dict[str, Any]:
    return torch.load(folder / stage / "checkpoint.pt", weights_only=True)["state"]


def limit_for(folder: Path, parcel: Path, precision: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Find a size that allows this precision and no better one."""
    sizes = {}
    for wanted in ("full", "half", "least"):
        limit = handoff.MANIFEST_ROOM
        finished = [name for name, results in stages.RESULTS.items() if all((folder / r).exists() for r in results)]
        started = [n for n in stages.RESULTS if n not in finished and (folder / n / "checkpoint.pt").exists()]
        sizes[wanted] = limit + len(handoff._tar(folder, finished, started, wanted))  # type: ignore[arg-type]
    assert sizes["full"] > sizes["half"] > sizes["least"]
    return sizes[precision]


def test_the_next_stage_gives_the_same_result_where_a_run_was_unpacked(chain, tmp_path):
    done_here = chain.copy(tmp_path / "here", without=("decoder", "pairs", "ode", "dmd"))
    files = pack(done_here, tmp_path / "parcel")
    assert 2 < len(files) <= 8 and all(file.stat().st_size <= handoff.PIECE for file in files)
    there = tmp_path / "there"
    unpack(tmp_path / "parcel", there)
    assert not (there / "data" / "clips_0000.safetensors").exists()
    for stage in ("data", "pairs", "ode"):
        assert stages.run(stage, "test", there)
        for name, expected in chain.results(stage).items():
            found = load_file(there / name)
            assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_an_interrupted_stage_goes_on_as_if_it_had_not_been_moved(chain, halfway, tmp_path):
    pack(halfway, tmp_path / "parcel")
    unpack(tmp_path / "parcel", tmp_path / "there")
    assert stages.run("data", "test", tmp_path / "there") and stages.run("teacher", "test", tmp_path / "there")
    for name, expected in chain.results("teacher").items():
        found = load_file(tmp_path / "there" / name)
        assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("precision", ["half", "least"])
def test_what_does_not_fit_travels_with_fewer_bits(precision, halfway, chain, tmp_path, monkeypatch):
    monkeypatch.setattr(handoff, "SMALL", 64)
    pack(halfway, tmp_path / "parcel", limit=limit_for(halfway, tmp_path, precision, monkeypatch))
    assert json.loads((tmp_path / "parcel" / "parcel.json").read_text())["precision"] == precision
    there = tmp_path / "there"
    unpack(tmp_path / "parcel", there)
    before, after = state(halfway, "teacher"), state(there, "teacher")
    for part in ("model", "average_model"):
        for old, new in zip(tensors(before[part]), tensors(after[part]), strict=True):
            torch.testing.assert_close(new.to(old.dtype), old, rtol=1e-3, atol=1e-6)
    for number, moments in before["optimizer"]["state"].items():
        found = after["optimizer"]["state"][number]
        torch.testing.assert_close(found["exp_avg_sq"].float(), moments["exp_avg_sq"], rtol=1e-2, atol=1e-30)
        if precision == "least" and moments["exp_avg"].numel() >= 64:
            assert not found["exp_avg"].any()
    assert stages.run("data", "test", there) and stages.run("teacher", "test", there)
    assert {t.dtype for t in tensors(state(there, "teacher")["optimizer"]["state"])} == {torch.float32}
    expected = chain.results("teacher")["teacher.safetensors"]
    found = load_file(there / "teacher.safetensors")
    # Two more steps at 1e-3: without first moments they begin anew, with fewer bits they hardly differ.
    error = max((found[key] - expected[key]).abs().max().item() for key in expected)
    assert error < (2e-3 if precision == "half" else 6e-3)


def test_what_can_not_fit_is_refused_and_says_which_stage_to_finish(halfway, tmp_path):
    with pytest.raises(ValueError, match=r"needs \d\.\d MiB at least, 0\.125 are allowed; finish stage teacher"):
        pack(halfway, tmp_path / "parcel", limit=MIB // 8)
    assert not (tmp_path / "parcel").exists()
    with pytest.raises(ValueError, match="nothing to pack"):
        pack(tmp_path / "nowhere", tmp_path / "parcel")


def test_a_finished_run_is_unpacked_and_only_exported(chain, tmp_path, capsys):
    """`all` passes over what came finished, and over shards that nobody will read."""
    pack(chain.folder, tmp_path / "parcel")
    there = tmp_path / "there"
    with pytest.raises(SystemExit) as end:
        options = ["--out", str(there), "--device", "cpu", "--unpack", str(tmp_path / "parcel")]
        cli.main(["train", "all", "--preset", "test", *options, "--pack", str(tmp_path / "again")])
    assert not end.value.code, capsys.readouterr().err
    assert not list(there.glob("*/*.safetensors")) or not (there / "data" / "clips_0000.safetensors").exists()
    assert Pipeline.from_pretrained(there / "bundle").bundle.provenance["stages"]["teacher"]["steps"] == 4
    assert "again: " in capsys.readouterr().out and (tmp_path / "again" / "parcel.json").exists()


def test_a_parcel_that_lacks_something_is_refused_before_anything_is_written(chain, tmp_path):
    parcel = tmp_path / "parcel"
    files = pack(chain.copy(tmp_path / "run", without=("teacher", "decoder", "pairs", "ode", "dmd")), parcel)

    def refusal() -> str:
        with pytest.raises(ValueError) as error:
            unpack(parcel, tmp_path / "there")
        assert not (tmp_path / "there").exists()
        return str(error.value)

    whole = files[0].read_bytes()
    files[0].write_bytes(whole[:-1] + b"?")
    assert "parcel.0 is damaged" in refusal()
    files[0].unlink()
    assert "parcel.0 is missing" in refusal()
    (parcel / "parcel.json").write_text('{"format": 2, "pieces": []}')
    assert "format=2, expected 1" in refusal()
    (parcel / "parcel.json").write_text("{")
    assert "is damaged" in refusal()
    shutil.rmtree(parcel)
    assert "has no parcel.json" in refusal()


def test_a_run_is_never_unpacked_over(chain, tmp_path):
    pack(chain.folder, tmp_path / "parcel")
    there = tmp_path / "there"
    there.mkdir()
    save_file({"x": torch.zeros(1)}, there / "teacher.safetensors")
    with pytest.raises(ValueError, match=r"already holds a run \(teacher\.safetensors\)"):
        unpack(tmp_path / "parcel", there)


def test_packing_again_leaves_nothing_of_the_parcel_before(chain, tmp_path):
    first = pack(chain.folder, tmp_path / "parcel")
    small = chain.copy(tmp_path / "small", without=("classifier", "teacher", "decoder", "pairs", "ode", "dmd"))
    second = pack(small, tmp_path / "parcel")
    assert len(second) < len(first)
    assert set((tmp_path / "parcel").iterdir()) == set(second)
