"""Curves go where they are asked for, and what is not installed is refused in a line."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from causvid import cli
from causvid.bench.roofline import count_flops
from causvid.train import curves, speed
from causvid.train.checkpoint import open_log
from causvid.train.loop import train
from causvid.train.run import Run

from .test_loop import Toy


class Fake:
    """A service that remembers what it is told."""

    def __init__(self) -> None:
        self.began: dict[str, Any] = {}
        self.rows: list[tuple[dict[str, float], int | None]] = []
        self.finished = 0
        self.Error = RuntimeError

    def init(self, project: str | None = None, **options: Any) -> "Fake":
        self.began = {"project": project, **options}
        return self

    def define_metric(self, name: str, *, step_metric: str) -> None:
        assert (name, step_metric) == ("*", "step")

    def log(self, data: dict[str, float], step: int | None = None) -> None:
        self.rows.append((data, step))

    def finish(self) -> None:
        self.finished += 1

    def __enter__(self) -> "Fake":
        return self

    def __exit__(self, *error: object) -> None:
        self.finish()


@pytest.fixture(params=["wandb", "trackio"])
def service(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Fake]:
    fake = Fake()
    monkeypatch.setitem(sys.modules, request.param, fake)  # type: ignore[arg-type]
    monkeypatch.setattr(curves, "find_spec", lambda name: SimpleNamespace())
    return request.param, fake


def test_every_row_reaches_the_service_and_a_resumed_run_is_the_same(service, tmp_path: Path) -> None:
    name, fake = service
    folder = tmp_path / "toy"
    folder.mkdir()
    begun = []
    for step in (1, 2):
        with open_log(folder, "toy", step - 1, follower=name, settings={"seed": 3}) as log:
            log(step, 1.0, {"loss": 0.5})
        begun.append((fake.began["name"], fake.began.get("id")))
    assert begun[0] == begun[1] and fake.began["resume"] == "allow" and fake.finished == 2
    assert fake.began["project"] == "causvid" and fake.began["config"] == {"stage": "toy", "seed": 3}
    steps = [step if step is not None else int(data["step"]) for data, step in fake.rows]
    assert steps == [1, 2] and all(data["toy/loss"] == 0.5 for data, _ in fake.rows)
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2


def test_what_a_service_refuses_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake()

    def refuse(**options: Any) -> Fake:
        raise RuntimeError("api_key not configured\nmore")

    fake.init = refuse  # type: ignore[method-assign]
    monkeypatch.setitem(sys.modules, "wandb", fake)  # type: ignore[arg-type]
    monkeypatch.setattr(curves, "find_spec", lambda name: SimpleNamespace())
    with (
        pytest.raises(ValueError, match=r"^log=wandb: api_key not configured \(WANDB_MODE=offline"),
        open_log(tmp_path, "toy", 0, follower="wandb"),
    ):
        pass


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_service_that_is_not_installed_is_refused_in_a_line(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(curves, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as caught:
        cli.main(["train", "ode", "--preset", "test", "--out", str(tmp_path / "run"), "--log", name])
    assert caught.value.code == 2 and f"log={name} needs {name}: pip install {name}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_settled_stage_says_how_fast_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "SETTLED", 0.0)
    monkeypatch.setattr(speed, "RECOUNTED", 2)
    monkeypatch.setattr(speed, "measure_ceilings", lambda *device, **options: SimpleNamespace(flops=1e3))
    toy = Toy()
    monkeypatch.setattr(type(toy.stage.objectives[0].config), "clips_of", lambda self, step: 4)
    assert train(toy.stage, Run(tmp_path))
    rows = [json.loads(line) for line in (tmp_path / "toy" / "metrics.jsonl").read_text().splitlines()]
    assert all(row["clips_per_second"] > 0 for row in rows)
    assert [row["of_peak"] > 0 if "of_peak" in row else None for row in rows] == [None, True] * 3


def test_what_is_compiled_stays_so_when_operations_are_counted() -> None:
    ran: list[str] = []

    def backend(graph: torch.fx.GraphModule, _: object) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            ran.append("compiled")
            return graph(*arguments)

        return run

    a = torch.randn(3, 4)
    product = torch.compile(lambda: a @ a.T, backend=backend)
    product()
    assert count_flops(product) == 2 * 3 * 4 * 3 and ran == ["compiled"]
    product()
    assert ran == ["compiled"] * 2


def test_a_step_counts_the_clips_of_all_micro_batches(chain) -> None:
    recipe = chain.preset.recipe
    assert recipe.ode.clips_of(0) == recipe.ode.batch * recipe.ode.accumulate
    assert [recipe.teacher.clips_of(step) for step in (0, recipe.teacher.steps - 1)] == [8, 4]
