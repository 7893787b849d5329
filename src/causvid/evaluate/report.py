"""What was measured of one model, and what it is meant to reach; kept in its bundle as evaluation.json."""

from causvid.config import Settings
from causvid.evaluate.adherence import Adherence, Drift
from causvid.evaluate.videos import Maker

CEILING_SHARE = 0.85
POINTS = 5.0
"""Percentage points by which a score may be below its reference."""


class Speed(Settings):
    """Wall time of one clip of `frames` pixel frames, and until its first can be shown; medians, after a warm-up."""

    clip_seconds: float
    first_frame_seconds: float
    frames: int

    @property
    def fps(self) -> float:
        """Pixel frames made a second of wall time."""
        return self.frames / self.clip_seconds


class Measurement(Settings):
    """Adherence and speed of one maker of videos. steps: denoising steps a chunk (student) or a clip (teacher)."""

    mode: Maker
    steps: int
    video_seconds: float
    adherence: Adherence
    speed: Speed


class EvaluationReport(Settings):
    """Everything that was measured of one bundle, and how.

    ceiling: renders of the same prompts, read by the same classifier. commands: what measures this again. notes: what a
    reader should know, such as why a target was missed.
    """

    prompts: int
    seed: int
    machine: str
    native_fps: float
    ceiling: Adherence
    student: Measurement
    teacher: Measurement | None = None
    drift: Drift | None = None
    commands: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Target(Settings):
    """One thing a model is meant to reach, what was measured, and whether that is enough."""

    wanted: str
    measured: str
    reached: bool


def targets(report: EvaluationReport) -> list[Target]:
    """Compare a report with what a model is meant to reach; better than asked counts as reached."""
    result: list[Target] = []

    def add(wanted: str, measured: str, reached: bool) -> None:
        result.append(Target(wanted=wanted, measured=measured, reached=reached))

    student = report.student.adherence
    for name, accuracy in student.accuracy.items():
        part = accuracy / max(report.ceiling.accuracy[name], 1e-9)
        add(f"{name}: at least {CEILING_SHARE:.0%} of the ceiling", f"{part:.1%}", part >= CEILING_SHARE)
    if report.teacher is not None:
        for name, gap in student.points_below(report.teacher.adherence).items():
            add(f"{name}: at most {POINTS:g} points below the teacher", points(gap), gap <= POINTS)
    if report.drift is not None:
        edge, whole = report.drift.edge_seconds, report.drift.video_seconds
        for name, gap in report.drift.last.points_below(report.drift.first).items():
            wanted = f"{name}: last {edge:g} s of {whole:g} s at most {POINTS:g} points below the first {edge:g} s"
            add(wanted, points(gap), gap <= POINTS)
    fps, native = report.student.speed.fps, report.native_fps
    add(f"student makes at least {native:g} frames a second, its native rate", f"{fps:.1f}", fps >= native)
    return result


def points(gap: float) -> str:
    """Write by how many percentage points a score is below its reference (negative: above)."""
    return f"{abs(gap):.1f} points {'below' if gap > 0 else 'above'}" if gap else "equal"
