"""What several commands take: a model, its parts, a device; and how progress is shown."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    import torch

    from causvid.pipeline import Pipeline
    from causvid.timeline import Timeline

PLACE = "a path, or owner/name or owner/name/file on the Hugging Face Hub"
Precision = Literal["fp32", "bf16", "fp16"]
Placement = Literal["keep", "cpu", "release"]

ModelOption = Annotated[
    str | None, typer.Option(help=f"A bundle, or a folder of Wan 2.1: {PLACE}. Default: the built-in model.")
]
StudentOption = Annotated[str | None, typer.Option(help=f"Weights that replace the model's transformer: {PLACE}.")]
TinyOption = Annotated[
    str | None, typer.Option("--tiny-autoencoder", help=f"Weights of taew2_1, which decode faster: {PLACE}.")
]
LoraOption = Annotated[str | None, typer.Option(help=f"A LoRA for the transformer: {PLACE}.")]
LoraStrengthOption = Annotated[float | None, typer.Option(help="How much of it is added. Default: 1.")]
PresetOption = Annotated[
    str | None, typer.Option(help="How to generate: a preset's name or .toml file. Default: told by the model's name.")
]
DtypeOption = Annotated[
    Precision | None, typer.Option(help="Of the weights. Default: bf16 on CUDA, as in the files elsewhere.")
]
TextEncoderOption = Annotated[
    Placement, typer.Option(help="Keep it beside the transformer, on the CPU, or read it anew for every prompt.")
]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps. Default: cuda if there is one.")]


@dataclass(frozen=True)
class Parts:
    """What runs and where: a model, and what is loaded beside or in place of its own parts."""

    model: ModelOption = None
    student: StudentOption = None
    tiny_autoencoder: TinyOption = None
    lora: LoraOption = None
    lora_strength: LoraStrengthOption = None
    preset: PresetOption = None
    dtype: DtypeOption = None
    text_encoder: TextEncoderOption = "keep"
    device: DeviceOption = None
    teacher: bool = False

    def load(self) -> "Pipeline":
        """Load all of it."""
        from causvid.pipeline import Pipeline

        return Pipeline.from_pretrained(
            self.model,
            student=self.student,
            tiny_autoencoder=self.tiny_autoencoder,
            lora=self.lora,
            lora_strength=self.lora_strength,
            preset=self.preset,
            dtype=self.dtype,
            device=find_device(self.device),
            text_encoder=self.text_encoder,
            teacher=self.teacher,
        )

    def over(self, script: "Timeline") -> "Parts":
        """Return the parts that a script names, each of which gives way to one that is given here."""
        return replace(self, **{name: told for name, told in script.parts.items() if getattr(self, name) is None})

    def named(self, pipeline: "Pipeline") -> dict[str, Any]:
        """Return what a script says of these parts, which were loaded as `pipeline`.

        A preset that was told by a student's name or size is said outright: a file may be moved, and renamed.
        """
        from causvid.timeline import PARTS

        told = None if self.student is None else pipeline.bundle.provenance.get("preset")
        return {name: getattr(self, name) for name in PARTS} | {"preset": self.preset or told}


def flat(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take dataclasses: each of their annotated fields becomes an option of the command."""
    own = inspect.signature(command)
    groups: dict[str, Any] = {name: p.annotation for name, p in own.parameters.items() if is_dataclass(p.annotation)}
    options = {name: _options(group) for name, group in groups.items()}
    parameters = [option for name, p in own.parameters.items() for option in options.get(name, [p])]

    @wraps(command)
    def run(**given: Any) -> None:
        made = {name: group(**{p.name: given.pop(p.name) for p in options[name]}) for name, group in groups.items()}
        command(**given, **made)

    keywords = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    run.__signature__ = own.replace(parameters=keywords)  # type: ignore[attr-defined]
    return run


def _options(group: Any) -> list[inspect.Parameter]:
    annotated = {field.name for field in fields(group) if get_origin(field.type) is Annotated}
    return [parameter for name, parameter in inspect.signature(group).parameters.items() if name in annotated]


def load_pipeline(model: str | Path | None, device: str | None) -> "Pipeline":
    """Load a model with its own parts, the built-in one by default."""
    return Parts(model=None if model is None else str(model), device=device).load()


def find_dtype(name: Precision) -> "torch.dtype":
    """Return torch's type of a precision."""
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]


def name_dtype(dtype: "torch.dtype") -> Precision:
    """Return the precision of a type of torch's."""
    return next(name for name in get_args(Precision) if find_dtype(name) == dtype)


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
    """Show how far each part of some work is; name a part to get what is told of it: how much is done, of how much."""
    with progress_bar() as progress:

        def stage(name: str) -> Callable[[int, int], None]:
            task = progress.add_task(name, total=None, detail="")

            def advance(done: int, count: int) -> None:
                progress.update(task, completed=done, total=count, detail=f"{done} of {count}")

            return advance

        yield stage
