"""What several commands take: a model, a device, a preset; and how progress is shown."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    import torch

    from causvid.pipeline import Pipeline

ModelOption = Annotated[Path | None, typer.Option(help="A bundle's folder. Default: the built-in model.")]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps. Default: cuda if there is one.")]


def load_pipeline(model: Path | None, device: str | None) -> "Pipeline":
    """Load a bundle, the built-in one by default."""
    from causvid.pipeline import Pipeline

    return Pipeline.from_pretrained(model, device=find_device(device))


def find_device(name: str | None) -> "torch.device":
    """Return the device of a name, by default CUDA's or else the CPU; raise ValueError if it is not on this machine."""
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError):
        raise ValueError(f"device={name} is not available on this machine") from None


def progress_bar() -> Progress:
    """Make a progress display on stderr that is gone when it ends; tasks need the field `detail`."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[detail]}"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
