"""`causvid plan` says what is needed and what fits, and sets what was measured beside it."""

import json
from pathlib import Path

import pytest

from causvid import cli
from causvid.cli.plan import _bytes


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main(["plan", *map(str, arguments)])
    return int(caught.value.code or 0)


@pytest.mark.parametrize(("gpu", "verdict"), [("1GB", "fits into 1 GB"), ("0.5MB", "does not fit into 0.0005 GB")])
def test_a_preset_is_planned_and_compared_with_a_card(
    gpu: str, verdict: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--model", "test", "--gpu", gpu, "--dtype", "bf16") == 0
    out = capsys.readouterr().out
    assert "keys and values of the history" in out and "at most, while" in out and verdict in out


def test_planned_and_measured_are_written_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "benchmarks" / "nano.json"
    assert run("--measure", "--steps", "1", "--device", "cpu", "--dtype", "fp32", "-o", file) == 0
    record = json.loads(file.read_text())
    sizes = record["bytes"]
    needed = sum(sizes["parts"].values()) + max(sizes["moments"].values())
    assert sizes["planned"] == sizes["libraries"] + needed
    assert sizes["planned"] == pytest.approx(sizes["measured"], rel=0.25)
    assert record["planned_over_measured"] == pytest.approx(sizes["planned"] / sizes["measured"], abs=1e-4)
    assert (record["model"], record["chunks"], record["frames"]) == ("built-in", 1, 1)
    assert "planned" in capsys.readouterr().out and str(tmp_path) not in file.read_text()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--gpu", "much"), "gpu=much is not a size"),
        (("--gpu", "0GB"), "gpu=0GB"),
        (("-o", "x.json"), "add --measure"),
        (("--model", "wan-1.3b", "--measure"), "need the path of a model"),
        (("--model", "nowhere"), "model=nowhere does not exist"),
        (("--height", "50"), "height=50 is not a multiple"),
    ],
)
def test_a_mistake_gets_one_line(arguments: tuple[str, ...], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 2
    err = capsys.readouterr().err
    assert named in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "size"), [("24GB", 24e9), ("24", 24e9), ("1.5 GiB", 1.5 * 2**30), ("500mb", 5e8), ("8g", 8e9)]
)
def test_sizes_are_read_in_both_kinds_of_unit(text: str, size: float) -> None:
    assert _bytes(text) == size
