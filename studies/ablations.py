"""Train and measure the recipe with one idea taken out, as the ablation of CausVid (2412.07772, table 4) does.

    python studies/ablations.py train runs/nano
    python studies/ablations.py evaluate runs/nano -o docs/ablations

Variants of a finished run are trained in `ablations/` within it. Each begins as a copy of the run, linked where the
file system can, without the stages that it trains itself. Both commands continue where they were interrupted.
"""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from frechet import frechet_distance
from notebook import Notebook, Row

from causvid.cli.options import DeviceOption, find_device, load_pipeline, stages
from causvid.evaluate.adherence import pooled
from causvid.evaluate.diversity import clip_features
from causvid.evaluate.judge import LONG_BATCH, judge_drift, judge_renders, load_judge, measure
from causvid.evaluate.videos import Maker, Manifest, Prompt, held_out, make_videos, read_videos, renders
from causvid.preset import Preset, load_preset
from causvid.recipe import required
from causvid.train.export import export_bundle, provenance
from causvid.train.run import RESULTS, Run, deadline_in, needed
from causvid.train.stages import BUNDLE, run_in_turn

FOLDER = "ablations"
LONG_PROMPTS, LONG_SECONDS = 20, 30.0
TITLES = {
    "teacher": "teacher, sees the whole clip (94.6 / 62.7 / 29.6)",
    "no-ode": "student without ODE initialisation (93.4 / 60.6 / 29.4)",
    "causal-teacher": "student of a causal teacher (91.9 / 61.7 / 28.2)",
    "no-dmd": "student without distribution matching (92.9 / 48.1 / 25.3)",
    "short": "the recipe, `dmd` as short as in the variants",
    "full": "the recipe (94.7 / 64.4 / 30.1)",
}
ABOUT = """The recipe of [CausVid](https://arxiv.org/abs/2412.07772), and the same with one idea taken out, on the same
held-out prompts and seeds. In brackets: the paper's temporal quality, frame quality and text alignment, of its large
model. A classifier trained on renders reads attributes off every clip; counts have Wilson's 95 % intervals. The Fréchet
distance is in its features, against renders of other held-out scenes; renders of the prompts' own scenes are the first
row. Drift is the adherence of a long video's last 5 s less that of its first."""

app = typer.Typer(help=__doc__, add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Variant:
    """One way to leave the recipe: without the results of some stages, the last of which it trains itself."""

    name: str
    preset: Preset
    without: tuple[str, ...]
    trained: tuple[str, ...]
    student: str = "dmd"


def variants(preset: Preset, *, causal_steps: int, dmd_steps: int | None) -> list[Variant]:
    """Return the variants of a recipe, those that take least to train first."""
    recipe = preset.recipe
    bidirectional, whole = required(recipe.teacher, "teacher"), required(recipe.dmd, "dmd")
    dmd = whole.model_copy(update={"steps": min(dmd_steps or whole.steps, whole.steps)})
    # Single frames cannot teach what to do without the future; and a rate that falls for long keeps what is known.
    phases = (bidirectional.phases[-1].model_copy(update={"until": 1.0}),)
    warmup = min(bidirectional.warmup, causal_steps // 5)
    causal = {"causal": True, "steps": causal_steps, "warmup": warmup, "cooldown": 0.8, "phases": phases}
    from_teacher = dmd.model_copy(update={"start": "teacher"})
    teacher = bidirectional.model_copy(update=causal)
    all_stages = ("teacher", "pairs", "ode", "dmd")

    def changed(name: str, **parts: object) -> Preset:
        train = recipe.model_copy(update={"dmd": dmd, **parts})
        return preset.model_copy(update={"name": f"{preset.name} {name}", "train": train})

    found = [
        Variant("no-dmd", changed("no-dmd"), ("dmd",), (), student="ode"),
        Variant("short", changed("short"), ("dmd",), ("dmd",)),
        Variant("no-ode", changed("no-ode", dmd=from_teacher), all_stages[1:], ("dmd",)),
        Variant("causal-teacher", changed("causal-teacher", teacher=teacher), all_stages, all_stages),
    ]
    return [variant for variant in found if variant.name != "short" or dmd != whole]


@app.command()
def train(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    preset: Annotated[str, typer.Option(help="The run's preset.")] = "nano",
    causal_steps: Annotated[int, typer.Option(min=1, help="Of the causal teacher, from the teacher's weights.")] = 1000,
    dmd_steps: Annotated[int | None, typer.Option(min=1, help="At most so many in each variant.")] = None,
    max_minutes: Annotated[float | None, typer.Option(min=0, help="Stop and checkpoint after so long.")] = None,
    device: DeviceOption = None,
) -> None:
    """Train the variants of a finished run, each to a bundle."""
    lender = Run(run, device=find_device(device), deadline=deadline_in(max_minutes))
    base = load_preset(preset)
    stages = [stage for stage in needed(base) if stage in RESULTS and stage != "decoder"]
    results = [run / BUNDLE, *(run / name for stage in stages for name in RESULTS[stage])]
    missing = [str(path) for path in results if not path.exists()]
    if missing:
        raise ValueError(f"{', '.join(missing)} missing: finish the run with `causvid train all`")
    for variant in variants(base, causal_steps=causal_steps, dmd_steps=dmd_steps):
        where, changed, earlier = replace(lender, folder=run / FOLDER / variant.name), variant.preset, {}
        if not where.folder.exists():
            _borrow(run, where.folder, without=variant.without)
        if "teacher" in variant.trained:  # it begins with the run's own teacher
            changed = changed.model_copy(update={"start": str(run / BUNDLE)})
            earlier = {"teacher, bidirectional": provenance(changed, lender)["stages"]["teacher"]}
        if (where.is_over and variant.trained) or not run_in_turn(variant.trained, changed, where):
            print("time is up; the same command continues")
            return
        bundle, student = where.folder / BUNDLE, variant.student
        export_bundle(variant.preset, where, bundle, student=student, with_teacher=False, earlier=earlier)
        print(f"{bundle} is done")


def _borrow(run: Path, folder: Path, *, without: Sequence[str]) -> None:
    """Begin a variant's folder with what it shares with the run; the folder appears whole or not at all."""
    omitted = {FOLDER, BUNDLE, *without, *(name for stage in without for name in RESULTS.get(stage, ()))}
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)

    def ignore(place: str, names: list[str]) -> set[str]:
        return omitted if Path(place) == run else set()

    shutil.copytree(run, partial, copy_function=_link, ignore=ignore)
    os.replace(partial, folder)


def _link(source: str | Path, target: str | Path) -> None:
    """Give a file a second name, or copy it where the file system has none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="Folder of a run, with its ablations/.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the report.")],
    prompts: Annotated[int, typer.Option(min=2, help="Held-out prompts; every row makes a clip of each.")] = 256,
    device: DeviceOption = None,
) -> None:
    """Compare all rows that are there: adherence, Fréchet distance, drift, speed."""
    if not (run / BUNDLE).is_dir():
        raise ValueError(f"run={run} has no {BUNDLE}: finish it with `causvid train all`")
    full, book = load_pipeline(str(run / BUNDLE), device), Notebook()
    classifier, world = load_judge(full.bundle)
    scenes = held_out(world, 2 * prompts, seed=0)
    asked, others = scenes[:prompts], scenes[prompts:]

    def features(shown: Sequence[Prompt]) -> torch.Tensor:
        clips = renders(world, shown, full.generation, frames=round(full.clip_seconds * full.fps))
        return torch.cat([clip_features(classifier, pixels) for pixels in clips])

    reference, ceiling = features(others), judge_renders(asked, classifier, world, full).attributes
    readings = {**ceiling, "all": pooled(ceiling.values())}
    floor = frechet_distance(features(asked), reference)
    rows = [Row(name="renders", readings=readings, numbers={"Fréchet distance": floor})]
    with stages() as stage:
        for name, title in TITLES.items():
            bundle = run / BUNDLE if name in ("full", "teacher") else run / FOLDER / name / BUNDLE
            if not bundle.is_dir() or (name == "teacher" and full.bundle.teacher is None):
                print(f"not measured: {title}")
                continue
            pipeline = full if bundle == run / BUNDLE else load_pipeline(str(bundle), device)
            maker: Maker = "teacher" if name == "teacher" else "student"
            folder, drift = run / FOLDER / "videos" / name, None
            made = measure(pipeline, asked, folder, classifier, maker=maker, seed=0, progress=stage(name))
            seen = [clip_features(classifier, batch) for batch in read_videos(folder, Manifest.load(folder))]
            if maker == "student":
                long, few = folder.with_name(f"{name}-long"), asked[:LONG_PROMPTS]
                make_videos(pipeline, few, long, seconds=LONG_SECONDS, batch=LONG_BATCH, progress=stage(long.name))
                drift = judge_drift(long, classifier).points
            numbers = {
                "Fréchet distance": frechet_distance(torch.cat(seen), reference),
                "drift (points)": drift,
                "denoising steps": made.steps,
                "frames a second": made.speed.fps,
                "first frame (s)": made.speed.first_frame_seconds,
            }
            tallies = made.adherence.attributes
            rows.append(Row(name=title, readings={**tallies, "all": pooled(tallies.values())}, numbers=numbers))
    book.section("The rows", f"{prompts} prompts, seed 0.", rows)
    book.write(output, "What each part of the recipe is good for", ABOUT, full)


if __name__ == "__main__":
    app()
