"""Simulate sessions on replicas from measured chunk times.

    python benchmarks/capacity.py docs/benchmarks/replicas.json docs/benchmarks/nano.json --page docs/deployment.md

A replica makes one chunk at a time, for the session that has waited longest; a session wants its next chunk shortly
before it has shown the last. Replicas share nothing, so that one is simulated for all.
"""

import heapq
import json
import random
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

TABLE = (1, 10, 100, 1_000, 10_000)
MARK = "<!-- benchmarks/capacity.py -->"
LEAD, PACES = 0.1, 1.4  # as `causvid.server.live` has them
FILL = 0.8
"""Of a replica's time that is planned for."""


@dataclass(frozen=True)
class Forecast:
    """sessions: on one replica. gap: seconds between two chunks of a session; mean and 95th percentile."""

    sessions: int
    mean: float
    p95: float
    busy: float


def simulate(
    sessions: int, times: Sequence[float], *, shown: float, lead: float, chunks: int = 60, seed: int = 0
) -> Forecast:
    """Let sessions share a replica.

    Args:
        sessions: how many.
        times: measured seconds of single chunks, which are drawn from.
        shown: seconds that a chunk plays.
        lead: seconds before the end of what is shown at which the next is wanted.
        chunks: of each session.
    """
    draw = random.Random(seed)
    wanted = [(draw.uniform(0, shown), number) for number in range(sessions)]
    heapq.heapify(wanted)
    until = [0.0] * sessions
    last: list[float | None] = [None] * sessions
    gaps, now, busy = [], 0.0, 0.0
    for _ in range(sessions * chunks):
        due, number = heapq.heappop(wanted)
        took = draw.choice(times)
        now = max(now, due) + took
        busy += took
        if (before := last[number]) is not None:
            gaps.append(now - before)
        last[number] = now
        until[number] = max(now, until[number]) + shown
        heapq.heappush(wanted, (max(now, until[number] - lead), number))
    gaps = gaps[len(gaps) // 4 :]  # the start is not the steady state
    return Forecast(sessions, statistics.mean(gaps), sorted(gaps)[int(0.95 * len(gaps))], busy / now)


def plan(times: Sequence[float], *, shown: float, lead: float) -> list[dict[str, float]]:
    """Return for each number of sessions how many replicas play them at their rate, and what each viewer sees."""
    each = max(1, int(FILL * shown / statistics.mean(times)))
    rows = []
    for sessions in TABLE:
        replicas = -(-sessions // each)
        most = -(-sessions // replicas)
        rows.append({"sessions": sessions, "replicas": replicas, **_row(simulate(most, times, shown=shown, lead=lead))})
    return rows


def _row(forecast: Forecast) -> dict[str, float]:
    return {("each" if name == "sessions" else name): value for name, value in asdict(forecast).items()}


def main(
    records: Annotated[list[Path], typer.Argument(help="What benchmarks/replicas.py or causvid bench wrote.")],
    price: Annotated[float, typer.Option(help="Of one replica's device, an hour.")] = 1.0,
    page: Annotated[Path | None, typer.Option(help="Write the tables between its two marks.")] = None,
) -> None:
    """Print a table up to 10,000 sessions for each record."""
    text = "\n\n".join(table(json.loads(record.read_text(encoding="utf-8")), price=price) for record in records)
    if page is None:
        print(text)
        return
    before, _, rest = page.read_text(encoding="utf-8").partition(MARK)
    _, _, after = rest.partition(MARK)
    page.write_text(f"{before}{MARK}\n{text}\n{MARK}{after}", encoding="utf-8")


def table(record: dict[str, Any], *, price: float) -> str:
    """Return what was measured, in a line, and a row for each number of sessions."""
    if "replicas" in record:
        found = record["replicas"]
        times, shown, lead = found["times"], found["shown"], found["lead"]
    else:
        (whole,) = (row["ms"] / 1000 for row in record["stages"] if row["stage"] == "whole chunk")
        times, shown = [whole], whole * record["times real time"]
        lead = LEAD + PACES * whole
    lines = [
        f"`{record['command']}`: a chunk plays {shown:.2f} s and is made in {statistics.mean(times):.3f} s.",
        "",
        "| sessions | replicas | sessions each | chunk every (mean) | p95 | busy | cost an hour |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['sessions']:,} | {row['replicas']:,} | {row['each']} | {row['mean']:.2f} s | {row['p95']:.2f} s "
        f"| {row['busy']:.0%} | {price * row['replicas']:,g} |"
        for row in plan(times, shown=shown, lead=lead)
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
