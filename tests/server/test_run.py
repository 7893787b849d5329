"""The server as a process: what it refuses to start with, how it logs, and how it stops."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from causvid import cli
from causvid.client import Client


def test_it_does_not_start_open_to_strangers(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["serve", "--host", "0.0.0.0", "--folder", str(tmp_path / "data")])
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("error: host=0.0.0.0 can be reached by others")
    assert not (tmp_path / "data").exists()


@pytest.mark.slow
def test_sigterm_puts_sessions_to_disk_and_logs_are_json(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "causvid.cli", "serve", "--port", "0", "--log-format", "json"]
    process = subprocess.Popen([*command, "--folder", str(tmp_path)], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(json.loads(line))
        if lines[-1]["message"].startswith("ready"):
            break
    (url,) = [line["message"].split()[-1] for line in lines if line["message"].startswith("listening")]
    with Client(url).session("a red fish hopping on a meadow") as session:
        next(iter(session))
        process.send_signal(signal.SIGTERM)
        rest = [json.loads(line) for line in process.stderr]
        process.wait()
        assert (tmp_path / "sessions" / session.id / "state.safetensors").is_file()
    (connection,) = [line for line in rest if line["message"] == "connection"]
    assert (connection["path"], connection["status"]) == ("/v1/live", 101)
    assert not [line for line in lines + rest if line["level"] == "error"]
