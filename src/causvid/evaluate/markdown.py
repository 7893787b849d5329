"""Measured numbers as Markdown: tables, fractions, gaps, and whether a target is reached."""

from collections.abc import Iterable, Sequence

from causvid.config import Settings
from causvid.evaluate.adherence import Tally


class Target(Settings):
    """One thing a model is meant to reach, what was measured, and whether that is enough."""

    wanted: str
    measured: str
    reached: bool


def target_section(targets: Sequence[Target]) -> str:
    """List targets, those that are not reached in bold."""
    missed = [target for target in targets if not target.reached]
    summary = "Every target is reached." if not missed else f"{len(missed)} of {len(targets)} targets are NOT reached."
    rows = [[target.wanted, target.measured, "reached" if target.reached else "**NOT reached**"] for target in targets]
    return f"## Targets\n\n{summary}\n\n" + table(["target", "measured", ""], rows)


def table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Write a table."""
    head = list(columns)
    lines = [head, ["---"] * len(head), *(list(row) for row in rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def points(gap: float) -> str:
    """Write by how many percentage points a score is below its reference (negative: above)."""
    return f"{abs(gap):.1f} points {'below' if gap > 0 else 'above'}" if gap else "equal"


def share(tally: Tally | None) -> str:
    """Write a fraction with its counts; a dash where nothing was counted."""
    return f"{tally.accuracy:.1%} ({tally.correct}/{tally.count})" if tally is not None and tally.count else "–"


def share_within(tally: Tally | None) -> str:
    """Write a fraction with its counts and its 95 % interval; a dash where nothing was counted."""
    if tally is None or not tally.count:
        return "–"
    low, high = tally.interval
    return f"{share(tally)}, {100 * low:.0f}–{100 * high:.0f}"
