"""A bundle that is written again keeps what was measured of the same student."""

import json
import shutil

import pytest

from causvid import cli
from causvid.pipeline import Pipeline
from causvid.train.export import export_bundle
from causvid.train.run import Run


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        cli.main([str(argument) for argument in arguments])
    return int(end.value.code or 0)


def test_a_bundle_without_its_teacher_keeps_what_was_measured_of_both(chain, tmp_path):
    folder = chain.copy(tmp_path / "run")
    out = ("--preset", "test", "--out", folder, "--device", "cpu")
    bundle = folder / "bundle"
    shutil.copytree(chain.folder / "bundle", bundle)
    few = ("--prompts", 2, "--long-prompts", 0, "--device", "cpu", "--card")
    assert command("evaluate", "adherence", "--model", bundle, *few) == 0
    card, measured = (bundle / "README.md").read_text(), json.loads((bundle / "evaluation.json").read_text())
    assert "`teacher/`" in card and measured["teacher"]["steps"] == 4

    assert command("train", "dmd", *out, "--without-teacher") == 0
    card = (bundle / "README.md").read_text()
    assert Pipeline.from_pretrained(bundle).bundle.teacher is None and not (bundle / "teacher").exists()
    assert "`teacher/`" not in card and "| teacher | 4 |" in card and "before it was left out" in card
    assert (bundle / "contact_sheet.png").is_file()

    assert command("train", "dmd", *out) == 0
    assert (bundle / "README.md").read_text().count("left out") == 0
    assert json.loads((bundle / "evaluation.json").read_text()) == measured

    shutil.copy(folder / "student_ode.safetensors", folder / "student.safetensors")
    export_bundle(chain.preset, Run(folder), bundle, with_teacher=False)
    assert not (bundle / "evaluation.json").exists()  # nothing was measured of this one
    assert command("evaluate", "adherence", "--model", bundle, *few) == 0
    assert json.loads((bundle / "evaluation.json").read_text())["teacher"] is None


def test_leaving_the_teacher_out_of_what_is_not_written_is_refused(tmp_path, capsys):
    assert command("train", "ode", "--preset", "test", "--out", tmp_path / "run", "--without-teacher") == 2
    assert "--without-teacher" in capsys.readouterr().err and not (tmp_path / "run").exists()
