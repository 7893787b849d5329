"""Make videos of prompts into a folder, from which they can be judged without the model.

    manifest.json       the model, the request, and each video's file, prompt and seed
    00000-0.mkv, …      number of the prompt, number of the seed; lossless
    PROMPT-0.mp4, …     instead, in VBench's naming

Several processes may make shards of one folder at once.

The same request continues a folder that was interrupted. It makes the same batches, less those that are finished, so
the folder ends as if it had never been interrupted.

Letters: B batch, T pixel frames, H W rows and columns.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from pydantic import Field, ValidationError
from torch import Tensor

from causvid.config import GenerationConfig, Settings, one_line
from causvid.engine.storage import fingerprint
from causvid.files.writing import new_file
from causvid.media import VideoWriter, read_video
from causvid.opening import read_text
from causvid.pipeline import Pipeline
from causvid.staging import staging
from causvid.worlds.storybook import World, caption, render, sample_scene

MANIFEST = "manifest.json"
LONGEST_NAME = 200
"""Bytes of a prompt that is part of a file's name."""
MANIFEST_BYTES = 64 * 2**20
Maker = Literal["student", "teacher"]
Progress = Callable[[int, int], None]
"""Called with (videos done, videos in all)."""


class Prompt(Settings):
    """A prompt. scene: seed of the held-out scene that it describes; labels: attribute → word, None is not counted."""

    text: str
    scene: int | None = None
    labels: Mapping[str, str | None] = Field(default_factory=dict)


class Video(Settings):
    """A video of the folder."""

    file: str
    prompt: Prompt
    seed: int


class Manifest(Settings):
    """What a folder of videos holds. model: fingerprint of its weights. seconds: length of a video."""

    model: str
    maker: Maker
    steps: int
    seconds: float
    generation: GenerationConfig
    videos: tuple[Video, ...]

    @property
    def prompts(self) -> list[Prompt]:
        """The prompt of each video."""
        return [video.prompt for video in self.videos]

    @property
    def labels(self) -> list[Mapping[str, str | None]]:
        """What each video should show."""
        return [video.prompt.labels for video in self.videos]

    @classmethod
    def load(cls, folder: Path) -> "Manifest":
        """Read a folder's manifest.

        Raises:
            ValueError: the folder has none, or it is damaged.
        """
        try:
            return cls.model_validate_json(read_text(folder / MANIFEST, most=MANIFEST_BYTES))
        except ValidationError as error:
            raise ValueError(f"{folder / MANIFEST} is damaged: {one_line(error)}") from None
        except FileNotFoundError:
            raise ValueError(f"folder={folder} has no {MANIFEST}: expected one of `causvid evaluate videos`") from None

    def save(self, folder: Path) -> None:
        """Write it into a folder, whole or not at all."""
        with new_file(folder / MANIFEST) as partial:
            partial.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")


def held_out(world: World, count: int, *, seed: int) -> list[Prompt]:
    """Describe `count` scenes of a world that no training clip shows."""
    scenes = [sample_scene(world, seed + number, split="held-out") for number in range(count)]
    texts = [caption(scene, scene.seed, language=world.language) for scene in scenes]
    return [Prompt(text=t, scene=s.seed, labels=s.readable()) for t, s in zip(texts, scenes, strict=True)]


def read_prompts(file: Path) -> list[Prompt]:
    """Read a prompt from each line of a text file that is not blank, or from a JSON list such as VBench_full_info.json.

    An item of the list is a prompt, or has it as `prompt_en` or `prompt`; a prompt that is repeated counts once.
    A table (.tsv) has a column `prompt`, and one for each attribute with what a video should show, or a dash.

    Raises:
        ValueError: the file has none, or is not UTF-8.
    """
    text = read_text(file, most=MANIFEST_BYTES)
    if file.suffix == ".tsv":
        return list(_labelled(file, text))
    lines = list(dict.fromkeys(_listed(file, text))) if file.suffix == ".json" else text.splitlines()
    prompts = [Prompt(text=line.strip()) for line in lines if line.strip()]
    if not prompts:
        raise ValueError(f"prompts={file}: expected a prompt in each line, found none")
    return prompts


def _listed(file: Path, text: str) -> Iterator[str]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    for item in found if isinstance(found, list) else [None]:
        prompt = (item.get("prompt_en") or item.get("prompt")) if isinstance(item, dict) else item
        if not isinstance(prompt, str):
            raise ValueError(f"prompts={file}: expected a list of prompts, or of objects with prompt_en or prompt")
        yield prompt


def _labelled(file: Path, text: str) -> Iterator[Prompt]:
    head, *rows = (line.split("\t") for line in text.splitlines())
    if head[0] != "prompt" or not rows or any(len(row) != len(head) or not row[0].strip() for row in rows):
        raise ValueError(f"prompts={file}: expected a line of `prompt` and attributes, then as many columns")
    for prompt, *words in rows:
        labels = {name: None if word == "-" else word for name, word in zip(head[1:], words, strict=True)}
        yield Prompt(text=prompt, labels=labels)


def renders(
    world: World, prompts: Sequence[Prompt], generation: GenerationConfig, *, frames: int, batch: int = 8
) -> Iterator[Tensor]:
    """Yield renders of held-out scenes in batches, float [B, T, 3, H, W] in [0, 1], at a model's size and frame rate.

    Raises:
        ValueError: a prompt describes no scene.
    """
    for start in range(0, len(prompts), batch):
        seeds = [prompt.scene for prompt in prompts[start : start + batch]]
        scenes = [sample_scene(world, seed, split="held-out") for seed in seeds if seed is not None]
        if len(scenes) < len(seeds):
            raise ValueError("prompts from a file describe no scene of the world: there is nothing to render")
        yield render(scenes, frames=frames, height=generation.height, width=generation.width, fps=generation.fps)


def make_videos(
    pipeline: Pipeline,
    prompts: Sequence[Prompt],
    folder: Path,
    *,
    maker: Maker = "student",
    seconds: float | None = None,
    steps: int | None = None,
    seeds: int = 1,
    seed: int = 0,
    batch: int = 8,
    vbench: bool = False,
    shard: tuple[int, int] = (0, 1),
    progress: Progress | None = None,
) -> Manifest:
    """Make `seeds` videos of each prompt into a folder, or continue one; video n of all is made with seed + n.

    Args:
        seconds: length, by default that of a training clip. steps: denoising steps a chunk (student) or a clip
            (teacher), by default the model's own. batch: videos made together.
        vbench: name them PROMPT-SEED.mp4, as VBench does. shard: (k, n) makes every n-th batch from the k-th on.

    Raises:
        ValueError: a value cannot be used, or the folder holds videos of another request.
    """
    if not prompts or seeds < 1 or batch < 1:
        raise ValueError(f"prompts={len(prompts)}, seeds={seeds}, batch={batch}: expected 1 or more of each")
    if maker not in get_args(Maker):
        raise ValueError(f"maker={maker!r} is not one of {', '.join(get_args(Maker))}")
    if not 0 <= shard[0] < shard[1]:
        raise ValueError(f"shard={shard[0]}/{shard[1]}: expected 0/N to N-1/N")
    own, parts = pipeline.generation, pipeline.bundle
    model = parts.transformer if maker == "student" else parts.teacher
    if model is None:
        raise ValueError("maker=teacher: this model has no teacher")
    stems = _vbench_names(prompts) if vbench else [f"{number:05d}" for number in range(len(prompts))]
    suffix = ".mp4" if vbench else ".mkv"
    files = [(f"{s}-{take}{suffix}", p) for take in range(seeds) for s, p in zip(stems, prompts, strict=True)]
    request = Manifest(
        model=fingerprint(model, parts.autoencoder),
        maker=maker,
        steps=steps or (len(own.timesteps) if maker == "student" else own.teacher_steps),
        seconds=pipeline.clip_seconds if seconds is None else seconds,
        generation=own,
        videos=tuple(Video(file=file, prompt=prompt, seed=seed + n) for n, (file, prompt) in enumerate(files)),
    )
    _begin(folder, request)
    for start in range(shard[0] * batch, len(files), shard[1] * batch):
        part = request.videos[start : start + batch]
        if not all((folder / video.file).is_file() for video in part):
            texts, numbers = [video.prompt.text for video in part], [video.seed for video in part]
            made = make_batch(pipeline, maker, texts, numbers, seconds=request.seconds, steps=steps)
            for video, frames in zip(part, made, strict=True):
                _write(folder / video.file, frames, fps=own.fps)
        if progress is not None:
            progress(start + len(part), len(files))
    return request


def make_batch(
    pipeline: Pipeline,
    maker: Maker,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    seconds: float,
    steps: int | None = None,
) -> Tensor:
    """Make a video of every prompt with the student or the teacher, uint8 [B, T, H, W, 3]."""
    make = pipeline.generate_batch if maker == "student" else pipeline.teach
    return make(prompts, seeds=seeds, seconds=seconds, steps=steps)


def read_videos(folder: Path, manifest: Manifest, *, batch: int = 8) -> Iterator[Tensor]:
    """Yield the videos of a folder in batches, uint8 [B, T, H, W, 3], in the order of its manifest.

    Raises:
        ValueError: a video is missing or damaged.
    """
    missing = [video.file for video in manifest.videos if not (folder / video.file).is_file()]
    if missing:
        raise ValueError(f"{folder / missing[0]} is missing, of {len(missing)} videos: finish the folder first")
    for start in range(0, len(manifest.videos), batch):
        paths = [folder / video.file for video in manifest.videos[start : start + batch]]
        yield torch.stack([_read(path, manifest) for path in paths])


def _begin(folder: Path, request: Manifest) -> None:
    """Begin an empty folder, or check that it holds what is asked for."""
    folder.mkdir(parents=True, exist_ok=True)
    with staging(folder):  # removes what killed processes left
        pass
    others = [path for path in folder.iterdir() if path.name[0] != "."]  # listed before another shard begins it
    if not (folder / MANIFEST).is_file():
        if others:
            raise ValueError(f"folder={folder} is not empty and has no {MANIFEST}: choose a new one")
        request.save(folder)
    found = Manifest.load(folder)
    if found != request:
        names = [name for name in Manifest.model_fields if getattr(found, name) != getattr(request, name)]
        other = {"videos": "prompts or seeds", "model": f"model {found.model}", "seconds": f"seconds={found.seconds:g}"}
        raise ValueError(f"folder={folder} holds videos of another request: {other.get(names[0], names[0])}")


def _vbench_names(prompts: Sequence[Prompt]) -> list[str]:
    """Name files by their prompts; two prompts have two names, that every file system takes."""
    names = [prompt.text for prompt in prompts]
    for name in names:
        if "/" in name or name.startswith(".") or len(name.encode()) > LONGEST_NAME:
            raise ValueError(f"prompt {name[:60]!r} is no file name, which VBench's naming needs: leave out the naming")
    if len(set(names)) < len(names):
        raise ValueError("prompts: expected each once, since VBench's naming names files by them")
    return names


def _write(path: Path, video: Tensor, *, fps: float) -> None:
    """Write a video, uint8 [T, H, W, 3], whole or not at all: an interrupt leaves no shorter one."""
    size = {"height": video.shape[1], "width": video.shape[2]}
    with new_file(path) as partial, VideoWriter(partial, fps=fps, **size) as writer:
        writer.write(video.numpy())


def _read(path: Path, manifest: Manifest) -> Tensor:
    own = manifest.generation
    frames = read_video(path, height=own.height, width=own.width, fps=own.fps)
    return torch.from_numpy(np.stack(list(frames)))
