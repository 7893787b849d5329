"""Each measure notices the damage it is made for, and no other."""

import pytest


def test_measures_notice_their_damage_and_no_other() -> None:
    import damage

    means, cells = damage.compare(damage.draw(10))
    assert set(means) == set(damage.NOTICES)
    # Ten clips say less than the many of the page: half the effect is enough to notice, twice as much is not to stay.
    for name, row in cells.items():
        for hurt, cell in row.items():
            expected, where = cell.expected, f"{name} under {hurt}: {cell}"
            if expected.direction and not expected.why:
                assert cell.effect * expected.direction >= damage.EFFECT / 2 and cell.share >= 0.75, where
            elif cell.moved not in (0, expected.direction):
                assert abs(cell.effect) < 2 * damage.EFFECT, where
    page = damage.write(means, cells, clips=10)
    assert page.count("✗") == 1 + sum(not cell.holds for row in cells.values() for cell in row.values())


@pytest.mark.parametrize(
    ("effect", "share", "direction", "why", "holds"),
    [
        (-0.6, 0.9, -1, "", True),
        (-0.6, 0.8, -1, "", False),
        (0.6, 0.9, -1, "", False),
        (0.4, 1.0, 0, "", True),
        (0.6, 1.0, 0, "", False),
        (0.1, 0.5, 1, "by definition", True),
        (-0.6, 1.0, 1, "by definition", False),
    ],
)
def test_an_expectation_holds_by_effect_and_share(
    effect: float, share: float, direction: int, why: str, holds: bool
) -> None:
    from damage import Cell, Reaction

    assert Cell(effect, share, Reaction(direction, why)).holds == holds
