"""Time and memory of a chunk, here or beside another checkout: `python benchmarks/chunk.py --against ../other`.

Each checkout runs in a process of its own; the two take turns, so that a machine whose speed drifts slows both. Figures
are medians of turns, the ratio the median of paired turns. Prints a table and writes JSON with `--output`.
"""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

CASES = {
    "nano": "the built-in model, decoding included",
    "256x8": "8 blocks of width 256, 14 x 24 tokens a frame, window 9, sink 1, 4 steps and the clean pass",
}
HERE = Path(__file__).resolve().parent.parent


def worker(case: str) -> None:
    """Make chunks as lines arrive on stdin; answer each with seconds and the process's peak of memory in MiB."""
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    step = _stream() if case == "nano" else _rollout()
    for _ in range(5):
        step()
    for _ in sys.stdin:
        began = time.perf_counter()
        for _ in range(3):
            step()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps([(time.perf_counter() - began) / 3, peak]), flush=True)


def _stream() -> Any:
    from causvid import Pipeline

    stream = Pipeline.from_pretrained().stream("a red swan moving to the right over a lake", seed=1)
    return lambda: next(stream)


def _rollout() -> Any:
    import inspect

    import torch

    from causvid.config import TransformerConfig
    from causvid.models.transformer import Transformer

    try:
        from causvid.engine.rollout import rollout
    except ImportError:  # a checkout from before the engine
        from causvid.generate.rollout import rollout

    config = TransformerConfig(dim=256, heads=4, layers=8, ffn_dim=1024, text_dim=128)
    model = Transformer(config).eval()
    generator = torch.Generator().manual_seed(0)
    model.initialise(generator)
    room = {"chunk": 3} if "chunk" in inspect.signature(model.new_cache).parameters else {}
    with torch.inference_mode():
        text = model.encode_text(torch.randn(1, 24, 128, generator=generator))
        cache = model.new_cache(batch=1, height=28, width=48, window=9, sink=1, **room)
    sizes = iter(lambda: 3, 0)
    levels = (1.0, 0.9, 0.7, 0.4)
    chunks = rollout(model, text, cache, chunks=sizes, shape=(1, 16, 28, 48), sigmas=levels, generator=generator)

    def step() -> None:
        with torch.inference_mode():
            next(chunks)

    return step


def main(
    against: Annotated[Path | None, typer.Option(help="Another checkout of this repository.")] = None,
    turns: Annotated[int, typer.Option(min=1, help="Turns of three chunks.")] = 20,
    threads: Annotated[int, typer.Option(min=1, help="Threads of a process.")] = 2,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write what was measured as JSON.")] = None,
) -> None:
    """Measure every case, and print milliseconds a chunk and peak memory."""
    trees = {"here": HERE} | ({} if against is None else {"against": against.resolve()})
    record: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {threads} threads",
        "command": f"python benchmarks/chunk.py --turns {turns} --threads {threads}",
        "versions": {name: _version(tree) for name, tree in trees.items()},
        "cases": {},
    }
    for case, meaning in CASES.items():
        found = _measure(case, trees, turns, threads)
        record["cases"][case] = {"what": meaning, **found}
        print(case, " ".join(f"{name}={value}" for name, value in found.items()))
    if output is not None:
        output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _version(tree: Path) -> str:
    return subprocess.run(["git", "-C", tree, "describe", "--always"], capture_output=True, text=True).stdout.strip()


def _measure(case: str, trees: dict[str, Path], turns: int, threads: int) -> dict[str, float]:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    processes = {
        name: subprocess.Popen(
            [sys.executable, __file__, "--worker", case],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**environment, "PYTHONPATH": str(tree / "src")},
        )
        for name, tree in trees.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in trees}
    peaks: dict[str, float] = {}
    for turn in range(turns):
        order = list(processes) if turn % 2 else list(processes)[::-1]
        for name in order:
            process = processes[name]
            assert process.stdin is not None and process.stdout is not None
            print("go", file=process.stdin, flush=True)
            took, peaks[name] = json.loads(process.stdout.readline())
            seconds[name].append(took)
    for process in processes.values():
        process.communicate()
    found = {f"{name}_ms": round(1e3 * statistics.median(times), 1) for name, times in seconds.items()}
    found |= {f"{name}_peak_mib": round(peak, 1) for name, peak in peaks.items()}
    if len(seconds) > 1:
        pairs = zip(seconds["here"], seconds["against"], strict=True)
        found["time_ratio"] = round(statistics.median(here / other for here, other in pairs), 3)
    return found


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(sys.argv[2])
    else:
        typer.run(main)
