"""A machine is named with the device that was used."""

import pytest
import torch

from causvid.engine.machine import describe_machine


def test_the_machine_names_its_gpu_where_one_was_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"Card {device.index}")
    assert describe_machine("cuda:1") == f"Card 1; {describe_machine()}"
    assert describe_machine("cpu") == describe_machine()
