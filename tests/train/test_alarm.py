"""The alarm of distribution matching rings when the critic loses the student, once, and goes on where it was."""

import json
import random

import torch

from causvid.train import alarm, dmd, loop
from causvid.train.alarm import RECENT, CriticAlarm
from causvid.train.run import Run


def rows(*losses: float) -> list[dict[str, float]]:
    return [{"critic_loss": loss} for loss in losses]


def lines(losses: list[float]) -> list[bool]:
    watched = CriticAlarm([])
    return [watched.add(row)[1] is not None for row in rows(*losses)]


def test_noise_and_a_falling_loss_ring_no_alarm() -> None:
    draw = random.Random(0)
    assert not any(lines([draw.uniform(0.7, 1.3) * max(0.3, 1 - n / 200) for n in range(400)]))


def test_a_rising_loss_rings_once_and_again_after_it_fell() -> None:
    low, high = [0.1] * 2 * RECENT, [0.3] * 2 * RECENT
    rang = lines([*low, *high, *low, *high])
    assert sum(rang) == 2 and rang.index(True) == len(low) + RECENT // 2


def test_stored_rows_continue_the_alarm() -> None:
    losses = [0.1] * 10 + [0.15] * 10 + [0.4] * 10
    whole, resumed = CriticAlarm([]), CriticAlarm(rows(*losses[:15]))
    both = [(whole.add(row), resumed.add(row) if n >= 15 else None) for n, row in enumerate(rows(*losses))]
    assert all(first == second for first, second in both[15:]) and any(first[1] for first, _ in both[15:])
    assert CriticAlarm([]).add({"loss": 1.0}) == ({}, None)


def test_a_student_that_runs_away_from_its_critic_is_warned_of(chain, changed, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(dmd, "autocast", lambda device: torch.autocast("cpu", enabled=False))
    monkeypatch.setattr(alarm, "RECENT", 3)
    preset = changed("dmd", steps=20, learning_rate=0.3, critic_learning_rate=0.0, warmup=0, max_norm=1e9, batch=4)
    folder = chain.copy(tmp_path / "run", without=("dmd",))
    loop.train(dmd.dmd_stage(preset, Run(folder)), Run(folder))
    warned = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    found = [json.loads(line) for line in (folder / "dmd" / "metrics.jsonl").read_text().splitlines()]
    assert warned and all("stage dmd, step" in line and "student and critic are apart" in line for line in warned)
    assert max(row.get("critic_behind", 0) for row in found) > alarm.APART
