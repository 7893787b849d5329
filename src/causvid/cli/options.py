"""What several commands take: options derived from the models that validate them, a device; and progress."""

import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from functools import reduce, wraps
from operator import or_
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin, get_type_hints

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from causvid.cli.early import check_device
from causvid.engine.request import GenerationOptions
from causvid.loading.spec import ModelSpec

if TYPE_CHECKING:
    import torch

    from causvid.pipeline import Pipeline

ModelOption = Annotated[str | None, typer.Option(help=ModelSpec.model_fields["model"].description)]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps. Default: cuda if there is one.")]


@dataclass(frozen=True)
class Options:
    """Marks a parameter of a command: a dict of a model's fields, each an option with its type, default and help."""

    model: type[BaseModel]
    without: tuple[str, ...] = ()

    def parameters(self) -> list[inspect.Parameter]:
        """Return the options as parameters of a command."""
        return [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=Annotated[_plain(field.annotation), typer.Option(help=field.description)],
            )
            for name, field in self.model.model_fields.items()
            if name not in self.without
        ]


Generation = Annotated[
    dict[str, Any], Options(GenerationOptions, without=("seconds", "sigmas", "after", "source", "strength", "adapt"))
]
Parts = Annotated[dict[str, Any], Options(ModelSpec, without=("teacher",))]


def flat(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take groups: the fields of a model (see `Options`) or of a dataclass become options of its own."""
    own = inspect.signature(command)
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, tuple[Callable[..., Any], list[inspect.Parameter]]] = {}
    for name, hint in hints.items():
        marks = [mark for mark in get_args(hint) if isinstance(mark, Options)]
        if marks:
            groups[name] = dict, marks[0].parameters()
        elif is_dataclass(hint) and isinstance(hint, type):
            groups[name] = hint, list(inspect.signature(hint).parameters.values())
    parameters = [option for name, p in own.parameters.items() for option in groups.get(name, (None, [p]))[1]]

    @wraps(command)
    def run(**given: Any) -> None:
        made = {name: make(**{p.name: given.pop(p.name) for p in options}) for name, (make, options) in groups.items()}
        command(**given, **made)

    keywords = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    run.__signature__ = own.replace(parameters=keywords)  # type: ignore[attr-defined]
    return run


def _plain(annotation: Any) -> Any:
    """Return a field's type without its bounds, which the model checks."""
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    if get_origin(annotation) is tuple:
        return list[_plain(get_args(annotation)[0])]  # type: ignore[misc]
    if get_origin(annotation) in (Union, UnionType):
        return reduce(or_, (_plain(part) for part in get_args(annotation)))
    return annotation


def load_pipeline(model: str | ModelSpec | None, device: str | None) -> "Pipeline":
    """Load a model, the built-in one by default."""
    check_device(device)
    if isinstance(model, ModelSpec) and model.accelerate == "openvino":
        # Threads of torch that wait by spinning take the cores from OpenVINO's; read when torch is first imported.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from causvid.pipeline import Pipeline

    return Pipeline.from_pretrained(model, device=find_device(device))


def find_device(name: str | None) -> "torch.device":
    """Return the device of a name, by default CUDA's or else the CPU; raise ValueError if it is not on this machine."""
    check_device(name)
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError):
        raise ValueError(f"device={name} is not available on this machine") from None


def progress_bar() -> Progress:
    """Make a progress display on stderr, where that is a terminal, gone when it ends; tasks need the field `detail`."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[detail]}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


@contextmanager
def stages() -> Iterator[Callable[[str], Callable[[int, int], None]]]:
    """Show how far each part of some work is; name a part to get what reports it: how much is done, of how much."""
    with progress_bar() as progress:

        def stage(name: str) -> Callable[[int, int], None]:
            task = progress.add_task(name, total=None, detail="")

            def advance(done: int, count: int) -> None:
                progress.update(task, completed=done, total=count, detail=f"{done} of {count}")

            return advance

        yield stage
