"""Where a stage's metrics are drawn as curves: TensorBoard, Weights & Biases or trackio.

Rows of JSON are written in any case. A stage is a run of its own there; resumed, it continues that run.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

Follower = Literal["tensorboard", "wandb", "trackio"]
Draw = Callable[[Mapping[str, float], int], None]
"""Takes metrics, and the step that they are of."""
PROJECT, IDENTITY = "causvid", "curves.txt"


def check_follower(follower: Follower | None) -> None:
    """Raise `ValueError` if what is asked for is not installed."""
    if follower is not None and find_spec(follower) is None:
        raise ValueError(f"log={follower} needs {follower}: pip install {follower}")


@contextmanager
def open_curves(
    follower: Follower | None, folder: Path, name: str, step: int, settings: Mapping[str, Any]
) -> Iterator[Draw]:
    """Open the curves of stage `name` from `step` on; None is TensorBoard, where it is installed.

    Raises:
        ValueError: if the service refuses.
    """
    check_follower(follower)
    if follower is None and find_spec("tensorboard") is None:
        print("tensorboard is not installed: curves are in metrics.jsonl alone", file=sys.stderr)
        yield lambda metrics, at: None
    elif follower == "wandb":
        with _wandb(folder, name, settings) as draw:
            yield draw
    elif follower == "trackio":
        with _trackio(folder, name, settings) as draw:
            yield draw
    else:
        with _tensorboard(folder / "tensorboard", name, step) as draw:
            yield draw


@contextmanager
def _tensorboard(folder: Path, name: str, step: int) -> Iterator[Draw]:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(log_dir=str(folder), purge_step=step) as writer:

        def draw(metrics: Mapping[str, float], at: int) -> None:
            for metric, value in metrics.items():
                writer.add_scalar(f"{name}/{metric}", value, at)

        yield draw


@contextmanager
def _wandb(folder: Path, name: str, settings: Mapping[str, Any]) -> Iterator[Draw]:
    wandb = _library("wandb")

    try:
        run = wandb.init(
            project=PROJECT,
            group=folder.parent.name,
            name=f"{folder.parent.name} {name}",
            id=_identity(folder),
            resume="allow",
            dir=str(folder),
            config={"stage": name, **settings},
        )
    except wandb.Error as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"log=wandb: {line} (WANDB_MODE=offline needs no account)") from None
    # Steps may come again after a crash, which W&B's own count of them does not allow.
    run.define_metric("*", step_metric="step")
    with run:
        yield lambda metrics, at: run.log({**{f"{name}/{key}": value for key, value in metrics.items()}, "step": at})


@contextmanager
def _trackio(folder: Path, name: str, settings: Mapping[str, Any]) -> Iterator[Draw]:
    run = _library("trackio").init(
        PROJECT,
        name=f"{folder.parent.name} {name} {_identity(folder)}",
        group=folder.parent.name,
        resume="allow",
        config={"stage": name, **settings},
        embed=False,
    )
    try:
        yield lambda metrics, at: run.log({f"{name}/{key}": value for key, value in metrics.items()}, step=at)
    finally:
        run.finish()


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise ValueError(f"log={name}: {error}") from None


def _identity(folder: Path) -> str:
    """Return by what a service knows this stage's run, the same whenever it is resumed."""
    path = folder / IDENTITY
    if not path.is_file():
        path.write_text(f"{uuid4().hex[:8]}\n", encoding="utf-8")
    return path.read_text(encoding="utf-8").strip()
