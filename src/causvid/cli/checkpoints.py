"""`causvid inspect` and `causvid convert`: describe files of weights, and rewrite them."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from causvid.cli.early import check_local_weights
from causvid.files.hub import check_name, find

Stored = Literal["fp32", "bf16", "fp16", "int8"]
SectionOption = Annotated[
    str | None, typer.Option(help="Which state dict of several. Default: generator_ema, or else generator.")
]


def inspect(
    path: Annotated[str, typer.Argument(help="A file of weights, a folder, or owner/name on the Hub.")],
    section: SectionOption = None,
) -> None:
    """Describe what a file or folder of weights holds, and whether it can be used here; if not, exit with 2."""
    check_name(path, what="path")
    check_local_weights(path)
    from rich.console import Console
    from rich.table import Table

    from causvid.loading.describe import describe

    console = Console()
    found = describe(find(path, what="path"), section=section)
    for part in found:
        table = Table(title=part.title, title_justify="left", show_header=False)
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        for row in part.rows:
            table.add_row(*row)
        if part.problem:
            table.add_row("problem", part.problem)
        console.print(table)
    if any(part.problem for part in found):
        raise typer.Exit(2)


def convert(
    source: Annotated[str, typer.Argument(metavar="SRC", help="A transformer in any published format.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="A new folder; a .pt file with --to causvid.")],
    to: Annotated[
        Literal["diffusers", "wan", "causvid", "bundle"],
        typer.Option(help="diffusers' or Wan's layout, a .pt as CausVid has it, or a bundle."),
    ],
    section: SectionOption = None,
    dtype: Annotated[Stored | None, typer.Option(help="How to store weights. Default: as they are.")] = None,
    base: Annotated[
        str | None, typer.Option(help="For a bundle: the bundle or folder of diffusers with the other parts.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="For a bundle: how it generates, where nothing else decides.")
    ] = None,
) -> None:
    """Write a transformer in another format. DST appears whole or not at all."""
    check_name(source, what="source")
    check_local_weights(source)
    import torch

    from causvid.loading.assemble import DTYPES
    from causvid.loading.convert import convert as write

    write(
        find(source, what="source"),
        target,
        to=to,
        section=section,
        dtype=None if dtype is None else torch.int8 if dtype == "int8" else DTYPES[dtype],
        base=None if base is None else find(base, what="base"),
        preset=preset,
    )
    print(f"{target}: {to}")
