"""Alarms of distribution matching: student and critic apart.

The student is moved by how the critic's score differs from the teacher's, which means something as long as the critic
knows what the student makes. Its own loss on the student's samples says whether it does: once that loss rises well
above what it has been, the student runs ahead of the critic, or the critic has broken down.
"""

import statistics
from collections.abc import Iterable, Mapping

LOSS, RATIO = "critic_loss", "critic_behind"
RECENT = 8
"""Rows of which a median is taken, since a row's loss depends much on the noise levels that were drawn."""
APART, TOGETHER = 2.0, 1.5
"""The ratio above which they are apart, and below which they are together again."""


class CriticAlarm:
    """How far the critic is behind, by the rows of metrics: its loss now over the lowest it has had, as medians.

    It depends on rows alone: fed with those that are stored, it goes on where an interrupted run was.
    """

    def __init__(self, rows: Iterable[Mapping[str, float]]) -> None:
        self._losses: list[float] = []
        self._lowest = float("inf")
        self._rang = False
        for row in rows:
            self.add(row)

    def add(self, row: Mapping[str, float]) -> tuple[dict[str, float], str | None]:
        """Take in a row; return what is to be added to it, and a line where student and critic have come apart.

        Nothing is added to rows without a critic's loss, nor to the first ones. The line comes once, and again after
        the two have been together in between.
        """
        if LOSS not in row:
            return {}, None
        self._losses = [*self._losses[1 - RECENT :], row[LOSS]]
        if len(self._losses) < RECENT:
            return {}, None
        now = statistics.median(self._losses)
        self._lowest = min(self._lowest, now)
        ratio = now / self._lowest if self._lowest > 0 else 1.0
        rang, self._rang = self._rang, ratio > (TOGETHER if self._rang else APART)
        line = (
            f"student and critic are apart: the critic's loss is {ratio:.1f} times its lowest; more critic_updates, a "
            "higher critic_learning_rate or a lower learning_rate keep them together"
        )
        return {RATIO: round(ratio, 4)}, line if self._rang and not rang else None
