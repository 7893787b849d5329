"""`causvid data`: sets of latents and captions to train on, made of any videos."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from causvid.cli.early import check_model
from causvid.cli.options import DeviceOption, ModelOption, Options, find_device, flat, stages
from causvid.data.captions import Captions, read_table
from causvid.data.plan import Rules

SHOWN = 8
"""Words that a note lists."""
RuleOptions = Annotated[dict[str, Any], Options(Rules)]
Sources = Annotated[
    list[Path], typer.Argument(help="Videos, latents, LMDBs, lists of prompts (.txt), or folders of videos.")
]


@flat
def prepare(
    sources: Sources,
    rules: RuleOptions,
    out: Annotated[Path, typer.Option(help="Folder of the set, made if missing.")],
    model: ModelOption = None,
    preset: Annotated[
        str | None, typer.Option(help="Size, rate and length of clips: a preset or .toml. Default: the model's.")
    ] = None,
    captions: Annotated[
        Path | None, typer.Option(help="A .csv or .parquet file with columns for file and caption.")
    ] = None,
    caption: Annotated[
        str | None, typer.Option(help='For videos without one: "a clip of {name}", or {folder}, or the same for all.')
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Processes that read videos. Default: one a core.")
    ] = None,
    device: DeviceOption = None,
) -> None:
    """Make a set of latents and captions of videos; the same command resumes where it was interrupted."""
    checked = Rules.make(**{name: value for name, value in rules.items() if value is not None})
    check_model({"model": model, "preset": preset})
    texts = Captions({} if captions is None else read_table(captions), caption)

    from causvid.data.prepare import find_sources, prepare
    from causvid.data.set_models import SetModels
    from causvid.loading.spec import ModelSpec

    find_sources(sources)
    models = SetModels.load(ModelSpec(model=model, preset=preset), find_device(device))
    count = workers or os.cpu_count() or 1
    with stages() as stage:
        done = prepare(sources, out, models, captions=texts, rules=checked, workers=count, stage=stage)
    left_out = ", ".join(f"{name} {count}" for name, count in done.left_out.items())
    print(f"{out}: {done.samples} clips" + (f"; left out: {left_out} (left_out.csv)" if left_out else ""))
    if done.unknown:
        some = ", ".join(map(repr, done.unknown[:SHOWN])) + (", …" if len(done.unknown) > SHOWN else "")
        print(f"note: the text encoder does not know {some}: captions that differ in these alone are one to the model")
