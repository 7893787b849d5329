"""What is timed is what a user runs, what is counted follows from the shapes, and one record tells it all."""

import json
import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from tests.conftest import small_pipeline

from causvid import cli
from causvid.bench import measure
from causvid.bench.against import compare
from causvid.bench.roofline import count_flops, kernel_share
from causvid.bench.subject import Subject
from causvid.bench.timing import Work, alternate
from causvid.nn.attention import attend
from causvid.nn.fused import linear_gelu
from causvid.pipeline import Pipeline


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main([str(argument) for argument in arguments])
    return int(caught.value.code or 0)


@pytest.fixture
def subject() -> Subject:
    return Subject(small_pipeline())


def test_medians_are_of_runs_that_take_turns() -> None:
    order: list[str] = []

    def work(name: str) -> None:
        order.append(name)
        time.sleep(0.005 if name == "slow" else 0)

    took = alternate({"slow": lambda: work("slow"), "quick": lambda: work("quick")}, seconds=0, least=4)
    assert took["slow"] > took["quick"]
    assert order.count("slow") == order.count("quick") == 5
    rounds = [tuple(order[n : n + 2]) for n in range(0, 10, 2)]
    assert all(one == other[::-1] for one, other in pairwise(rounds))


def test_operations_are_counted_by_their_shapes() -> None:
    x, linear = torch.randn(2, 5, 8), torch.nn.Linear(8, 12)
    q, k = torch.randn(1, 6, 3, 4), torch.randn(1, 10, 3, 4)
    with torch.inference_mode():
        assert count_flops(lambda: linear(x)) == count_flops(lambda: linear_gelu(linear, x)) == 2 * 10 * 8 * 12
        assert count_flops(lambda: attend(q, k, k)) == 4 * 6 * 10 * 3 * 4


def test_time_in_products_is_told_from_the_rest() -> None:
    a = torch.randn(300, 300)
    assert kernel_share(lambda: a @ a, seconds=0.05) > 0.6
    assert kernel_share(lambda: a.sin(), seconds=0.05) == 0


def test_stages_leave_the_stream_where_it_is(subject: Subject) -> None:
    fork = subject.stream.fork()
    for work in subject.stages().values():
        work()
    assert torch.equal(next(fork), next(subject.stream))


def test_recomputing_in_diffusers_is_the_same_network(subject: Subject) -> None:
    found = compare(subject, seconds=0)
    assert found.error < 1e-4 and found.ours > 0 and found.theirs > 0


def test_a_long_stream_is_compared_with_a_new_one(subject: Subject) -> None:
    found = measure.long_stream(subject, chunks=20, seconds=0.1)
    assert found["chunks"] == 20 and abs(found["memory, MiB more"]) < 50


@pytest.mark.parametrize(("name", "values"), [("steps", [1, 3]), ("sessions", [1, 3])])
def test_a_chunk_costs_more_where_there_is_more_of_it(
    small: Pipeline, name: str, values: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def count(works: dict[str, Work], *, seconds: float) -> dict[str, float]:
        return {own: count_flops(work) for own, work in works.items()}

    monkeypatch.setattr(measure, "alternate", count)
    less, more = measure.sweep(small, name, values, seconds=0.5)
    assert less[name] == values[0] and less["ms"] < more["ms"]


def test_the_whole_table_runs_at_toy_size(toy_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bench.json"
    options = ["--seconds", "0.1", "--cold", "--against", "diffusers", "--chunks", "3", "--teacher", "--json", file]
    assert run("bench", "--model", toy_bundle, *options) == 0
    record = json.loads(file.read_text())
    stages = [row["stage"] for row in record["stages"]]
    assert stages == ["text", "step 1", "clean pass", "decode", "file", "whole chunk"]
    assert {"cold, s", "warm, s"} == set(record["first frame"]) and record["teacher"]["ratio"] > 0
    if not torch.cuda.is_available():
        assert record["gpu"].startswith("not measured")
    assert "whole chunk" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--sweep", "window"], "--sweep and --values belong together"),
        (["--model", "nano", "--cold"], "is a preset, without weights"),
        (["--model", "wan-1.3b"], "has no world"),
        (["--model", "nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_measured_is_refused(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bench", *options) == 2
    line = capsys.readouterr().err
    assert said in line and line.count("\n") == 1
