"""Fuzz every reader: spoil small valid files, and say what each kind of input gets.

    python benchmarks/fuzz.py --count 8000 --seconds 540 --write docs/robustness.md

Half of the inputs have any bytes changed, half have hostile values in the places that their format has (JSON, TOML,
headers, tensors, chunks). A reader may accept an input or refuse it with a ValueError or OSError of one line. Anything
else is a finding: its input is kept in --keep, and the exit status is 1. Input k of a kind is the same in every run
with the same --seed. Every kind is read in a process of its own, whose memory is the kind's.
"""

import argparse
import logging
import multiprocessing
import random
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from fuzz_kinds import Kind, kinds

HANG = 120
"""Seconds after which a reader is taken for hung."""


class Hung(BaseException):
    """A reader took too long; no handler of errors may catch it."""


@contextmanager
def limited() -> Iterator[None]:
    """Raise `Hung` where a block takes too long."""

    def stop(*_: Any) -> None:
        raise Hung

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(HANG)
    try:
        yield
    finally:
        signal.alarm(0)


def memory(field: str) -> int:
    """Return a number of bytes that Linux has of this process, 0 elsewhere."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(field)), 0)


def forget_peak() -> None:
    """Let the peak of this process's memory begin anew."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def attempt(kind: Kind, file: Path) -> str:
    """Read one input and return what became of it."""
    forget_peak()
    before, began = memory("VmRSS"), time.process_time()
    try:
        with limited():
            kind.read(file)
        outcome = "accepted"
    except (ValueError, OSError) as error:
        outcome = "refused" if "\n" not in str(error) else "several lines"
    except Hung:
        outcome = "hang"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        outcome = f"traceback ({type(error).__name__})"
    if outcome == "refused":
        kind.worst_seconds = max(kind.worst_seconds, time.process_time() - began)
        kind.worst_bytes = max(kind.worst_bytes, memory("VmHWM") - before)
    return outcome


def fuzz(kind: Kind, place: Path, count: int, seconds: float, seed: int, keep: Path) -> None:
    """Try so many inputs of a kind, for so long at most."""
    until, folder = time.monotonic() + seconds, keep / kind.name.replace(" ", "-")
    grown = 0
    for number in range(count):
        if time.monotonic() > until:
            break
        rng = random.Random(f"{seed} {kind.name} {number}")
        data = rng.choice(kind.mutations)(kind.seeds[number % len(kind.seeds)], rng)
        file = place / kind.file
        file.write_bytes(data)
        outcome = attempt(kind, file)
        kind.outcomes[outcome] += 1
        if number == count // 10 or number == 100:  # what is imported and cached once is there now
            grown = memory("VmRSS")
        if outcome not in ("accepted", "refused"):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number}-{kind.file}").write_bytes(data)
    kind.growth = max(0, memory("VmRSS") - grown) if grown else 0


def in_process(kind: Kind, place: Path, options: argparse.Namespace, seconds: float) -> Kind:
    """Fuzz a kind in a process of its own and return it; one that crashes leaves its input."""

    def work(end: Connection) -> None:
        fuzz(kind, place, options.count, seconds, options.seed, options.keep)
        end.send((kind.outcomes, kind.worst_seconds, kind.worst_bytes, kind.growth))

    there, here = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=work, args=(here,))
    child.start()
    here.close()
    try:
        kind.outcomes, kind.worst_seconds, kind.worst_bytes, kind.growth = there.recv()
    except EOFError:
        child.join()
        kind.outcomes[f"crash ({child.exitcode})"] += 1
        options.keep.mkdir(parents=True, exist_ok=True)
        (options.keep / f"crash-{kind.file}").write_bytes((place / kind.file).read_bytes())
    child.join()
    return kind


def table(found: list[Kind]) -> str:
    """Return the results as a table of Markdown."""
    rows = [
        "| input | tried | accepted | refused in one line | anything else | longest refusal | its memory | growth |"
    ]
    rows.append("|---|---:|---:|---:|---|---:|---:|---:|")
    for kind in found:
        other = ", ".join(f"{n} {what}" for what, n in kind.outcomes.items() if what not in ("accepted", "refused"))
        rows.append(
            f"| {kind.name} | {kind.outcomes.total():,} | {kind.outcomes['accepted']:,} "
            f"| {kind.outcomes['refused']:,} | {other or 'none'} | {kind.worst_seconds:.2f} s "
            f"| {kind.worst_bytes / 2**20:.0f} MiB | {kind.growth / 2**20:.0f} MiB |"
        )
    tried, accepted, refused = (
        sum(kind.outcomes.total() for kind in found),
        sum(kind.outcomes["accepted"] for kind in found),
        sum(kind.outcomes["refused"] for kind in found),
    )
    rows.append(
        f"| all | {tried:,} | {accepted:,} | {refused:,} | {tried - accepted - refused or 'none'} "
        f"| {max(kind.worst_seconds for kind in found):.2f} s "
        f"| {max(kind.worst_bytes for kind in found) / 2**20:.0f} MiB "
        f"| {max(kind.growth for kind in found) / 2**20:.0f} MiB |"
    )
    return "\n".join(rows)


def main() -> None:
    """Fuzz, print the table, and exit with 1 if anything was not accepted or refused in one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=8000, help="inputs of every kind, at most")
    parser.add_argument("--seconds", type=float, default=540, help="for all kinds together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="the kinds whose names hold this")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-findings"), help="where inputs are kept that fell")
    parser.add_argument("--write", type=Path, help="the page to write")
    options = parser.parse_args()
    logging.disable()
    torch.set_num_threads(1)
    until = time.monotonic() + options.seconds
    with TemporaryDirectory() as folder:
        chosen = [kind for kind in kinds(Path(folder)) if not options.only or options.only in kind.name]
        for number, kind in enumerate(chosen):
            place = kind.folder or Path(folder) / f"in-{number}"
            place.mkdir(parents=True, exist_ok=True)
            share = (until - time.monotonic()) / (len(chosen) - number)
            in_process(kind, place, options, share)
            print(f"{kind.name}: {dict(kind.outcomes)}, {kind.worst_seconds:.2f} s", file=sys.stderr, flush=True)
    print(table(chosen))
    if options.write:
        command = (
            f"python benchmarks/fuzz.py --count {options.count} --seconds {options.seconds:g} --seed {options.seed}"
        )
        options.write.write_text(PAGE.format(command=command, table=table(chosen)), encoding="utf-8")
    sys.exit(any(set(kind.outcomes) - {"accepted", "refused"} for kind in chosen))


PAGE = """# What damaged and hostile files get

Small valid files of every kind are spoiled and given to the code that reads them: half have any bytes changed, half
have hostile values where their format has values. Time is that of the processor, for the longest refusal; memory is
what the process had more at a refusal's peak. Growth is what it kept after all of them. Made by

```
{command}
```

{table}
"""

if __name__ == "__main__":
    main()
