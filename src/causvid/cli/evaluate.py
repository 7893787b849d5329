"""`causvid evaluate`: make videos of prompts into a folder, and judge whether they show what their prompts say."""

import json
import re
import shlex
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from causvid.cli.early import check_model
from causvid.cli.options import DeviceOption, ModelOption, find_device, load_pipeline, stages
from causvid.media import contact_sheet
from causvid.opening import open_regular
from causvid.staging import check_file

if TYPE_CHECKING:
    from causvid.evaluate.adherence import Adherence

SHOWN = 10
"""Videos in the card's contact sheet."""
MANIFEST = "manifest.json"
"""Of a folder of videos."""
REMARKS = {"card", "note", "into"}
"""Options that change no number."""

SeedOption = Annotated[int, typer.Option(min=0, help="Chooses prompts and noise.")]


def videos(
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for the videos; continues an interrupted one.")
    ],
    model: ModelOption = None,
    file: Annotated[Path | None, typer.Option(help="Prompts: one a line; a JSON list; a .tsv of what to see.")] = None,
    prompts: Annotated[int | None, typer.Option(min=1, help="How many. Default: all of the file, or 100.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Videos of each prompt.")] = 1,
    seconds: Annotated[float | None, typer.Option(help="Length of a video. Default: that of a training clip.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Denoising steps. Default: the model's own.")] = None,
    teacher: Annotated[bool, typer.Option("--teacher", help="Let the teacher make them.")] = False,
    vbench: Annotated[bool, typer.Option("--vbench", help="Name videos PROMPT-0.mp4, as VBench does.")] = False,
    shard: Annotated[str, typer.Option(help="K/N: make every N-th batch from the K-th, counted from 0.")] = "0/1",
    seed: SeedOption = 0,
    device: DeviceOption = None,
) -> None:
    """Make videos of held-out or other prompts into a folder, without loss unless --vbench, to be judged."""
    if not re.fullmatch(r"\d{1,6}/\d{1,6}", shard):
        raise ValueError(f"shard={shard!r}: expected K/N, such as 0/2")
    part, parts = map(int, shard.split("/"))
    check_model({"model": model})
    if file is not None:
        open_regular(file).close()
    from causvid.evaluate.judge import choose_prompts
    from causvid.evaluate.videos import make_videos, read_prompts

    if file is not None:
        read_prompts(file)  # before the model is loaded, not after
    pipeline = load_pipeline(model, device)
    asked = choose_prompts(pipeline.bundle, file, prompts, seed=seed)
    with stages() as stage:
        manifest = make_videos(
            pipeline,
            asked,
            output,
            maker="teacher" if teacher else "student",
            seconds=seconds,
            steps=steps,
            seeds=seeds,
            seed=seed,
            vbench=vbench,
            shard=(part, parts),
            progress=stage("videos"),
        )
    made = sum((output / video.file).is_file() for video in manifest.videos)
    print(f"{output}: {made} of {len(manifest.videos)} videos of {manifest.seconds:g} s")


def adherence(
    context: typer.Context,
    folder: Annotated[Path | None, typer.Argument(help="Videos to judge, instead of what the model makes.")] = None,
    model: ModelOption = None,
    prompts: Annotated[int, typer.Option(min=1, help="Held-out prompts.")] = 100,
    long_prompts: Annotated[int, typer.Option(min=0, help="Prompts of long videos; 0 makes none.")] = 100,
    long_seconds: Annotated[float, typer.Option(min=10, help="Length of a long video.")] = 30.0,
    teacher: Annotated[bool, typer.Option(help="Measure the teacher too, where the model has one.")] = True,
    card: Annotated[bool, typer.Option("--card", help="Write the model card into the bundle.")] = False,
    note: Annotated[list[str] | None, typer.Option(help="A remark for the card; may be repeated.")] = None,
    into: Annotated[
        Path | None, typer.Option("--videos", help="Make the videos in this folder and leave them there.")
    ] = None,
    seed: SeedOption = 0,
    device: DeviceOption = None,
) -> None:
    """Judge the videos of a folder, or renders, teacher and student on held-out prompts, by the model's classifier."""
    check_model({"model": model})
    if folder is not None and not (folder / MANIFEST).is_file():
        raise ValueError(f"folder={folder} has no {MANIFEST}: expected one of `causvid evaluate videos`")
    from causvid.evaluate.card import write_card
    from causvid.evaluate.judge import evaluate, first_videos, judge_folder
    from causvid.evaluate.report import targets
    from causvid.loading.bundle import CARD

    pipeline = load_pipeline(model, device)
    if folder is not None:
        if unused := _changed(context) - {"folder", "model", "device"}:
            raise ValueError(f"{', '.join(sorted(unused))}: no option for videos that are made, leave out the folder")
        _show(judge_folder(folder, pipeline))
        return
    with TemporaryDirectory() as temporary, stages() as stage:
        place = into or Path(temporary)
        report = evaluate(
            pipeline,
            place,
            prompts=prompts,
            long_prompts=long_prompts,
            long_seconds=long_seconds,
            teacher=teacher,
            seed=seed,
            stage=stage,
        )
        shown = first_videos(place / "student", SHOWN) if card else []
    report = report.model_copy(update={"commands": (command_line(context),), "notes": tuple(note or ())})
    makers = [made for made in (report.teacher, report.student) if made is not None]
    _show({"renders": report.ceiling} | {made.mode: made.adherence for made in makers})
    for made in makers:
        speed = made.speed
        print(f"{made.mode}: {made.steps} steps, {speed.clip_seconds:.2f} s a clip, {speed.fps:.1f} FPS")
    for target in targets(report):
        print(f"{'reached' if target.reached else 'MISSED '}  {target.wanted}: {target.measured}")
    if card:
        assert pipeline.bundle.folder is not None, "it was loaded from one"
        clips, captions = [clip for _, clip in shown], [prompt for prompt, _ in shown]
        write_card(pipeline.bundle.folder, report, contact_sheet(clips, captions, columns=2, scale=2))
        print(f"wrote {pipeline.bundle.folder / CARD}")


def vbench(
    folder: Annotated[Path | None, typer.Argument(help="A folder of videos of any model.")] = None,
    scores: Annotated[Path | None, typer.Option(help="Weigh the scores that vbench wrote, JSON.")] = None,
    long: Annotated[bool, typer.Option("--long", help="Cut videos into clips of two seconds, as VBench-Long.")] = False,
    python: Annotated[Path | None, typer.Option(help="An interpreter that has vbench. Default: this one.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write all numbers here, as JSON.")] = None,
    device: DeviceOption = None,
) -> None:
    """Score videos by what needs no downloaded network, and by the vbench package where it is installed."""
    if (folder is None) == (scores is None):
        raise ValueError("expected a folder of videos, or --scores FILE")
    if scores is not None and (long or python is not None or output is not None):
        raise ValueError("--long, --python and --output are for a folder of videos, leave out --scores")
    from causvid.evaluate.vbench import DIMENSIONS, diversity, means, read_scores, score_folder, totals
    from causvid.evaluate.vbench_package import Verdict, find_python, judge_folder, missing_weights
    from causvid.files.writing import new_file

    if scores is not None:
        print(totals(read_scores(scores)).text)
        return
    assert folder is not None
    if output is not None:
        check_file(output)
    interpreter = find_python(python)
    rows = score_folder(folder, long=long)
    here = means(rows)
    if (folder / MANIFEST).is_file() and (apart := diversity(folder)) is not None:
        here["diversity over seeds"] = apart
    if interpreter is None:
        missing = {name: missing_weights(name) for name in DIMENSIONS}
        judged = [Verdict(name, missing=lack) for name, lack in missing.items() if lack]
    else:
        judged = list(judge_folder(folder, python=interpreter, device=str(find_device(device)), long=long))
    theirs = {one.dimension: one.score for one in judged if one.score is not None}
    table = Table("measure", f"here, mean of {len(rows)} videos", *(["vbench"] if theirs else []))
    for name in [*here, *(name for name in theirs if name not in here)]:
        columns = (here.get(name), theirs.get(name))
        table.add_row(name, *("" if value is None else f"{value:.4f}" for value in columns[: 2 if theirs else 1]))
    Console().print(table)
    if interpreter is None:
        print("vbench is not installed here: `pip install vbench` in an environment of its own, then --python PATH.")
    for one in judged:
        if one.missing:
            print(f"  {one.dimension}: {one.missing}")
    if set(theirs) == set(DIMENSIONS):
        print(totals(theirs).text)
    if output is not None:
        for one in judged:
            for file, value in one.videos.items():
                rows[file][f"vbench {one.dimension}"] = value
        with new_file(output) as partial:
            partial.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
        print(f"wrote {output}")


def command_line(context: typer.Context) -> str:
    """Return the command again, with the options that were not left at their defaults."""
    words = ["causvid", *context.command_path.split()[-2:]]
    for option in context.command.params:
        if option.name not in _changed(context) - REMARKS:
            continue
        value = context.params[option.name]
        if isinstance(value, bool):
            words.append(option.opts[0] if value else option.secondary_opts[0])
        else:
            words += [option.opts[0], "path/of/this/folder" if option.name == "model" else str(value)]
    return shlex.join(words)


def _changed(context: typer.Context) -> set[str]:
    """Return the names of the options that were not left at their defaults."""
    values, parameters = context.params, context.command.params
    # An option that may be repeated is an empty sequence where it is not given, whatever its default.
    return {one.name for one in parameters if one.name and values.get(one.name) not in (one.default, [], ())}


def _show(columns: "dict[str, Adherence]") -> None:
    table = Table("attribute", *columns)
    for name in next(iter(columns.values())).attributes:
        table.add_row(name, *(f"{column.accuracy[name]:.1%}" for column in columns.values()))
    Console().print(table)


def domain(
    data: Annotated[Path, typer.Option(help="A set that `causvid data prepare` made.")],
    model: ModelOption = None,
    clips: Annotated[int, typer.Option(min=2, max=100_000, help="How many to compare.")] = 48,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of clips and videos.")] = 0,
    device: DeviceOption = None,
) -> None:
    """Measure how far a model's videos are from the clips of a set: 0 is the same."""
    check_model({"model": model})
    target = find_device(device)
    from causvid.data.video_set import VideoSet
    from causvid.evaluate.domain import domain_distance
    from causvid.loading.assemble import assemble
    from causvid.loading.spec import ModelSpec

    bundle = assemble(ModelSpec(model=model), device=target)
    g, factor = bundle.generation, bundle.autoencoder.spatial_factor
    size = (bundle.autoencoder.latent_channels, g.height // factor, g.width // factor)
    found = VideoSet.open(data, g, size=size, device=target)
    distance = domain_distance(bundle, found, clips=clips, seed=seed, device=target)
    print(f"{data}: Fréchet distance {distance:.4f} over {clips} clips")
