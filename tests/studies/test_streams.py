"""The study of streams measures a toy model and writes its report."""

import json
from pathlib import Path


def test_the_study_of_streams_writes_a_report(toy_bundle: Path, tmp_path: Path) -> None:
    import streams

    streams.main(tmp_path / "report", model=str(toy_bundle), prompts=1, minutes=0.1, device="cpu")
    text = (tmp_path / "report" / "README.md").read_text()
    pictures = {path.stem for path in (tmp_path / "report").glob("*.webp")}
    assert pictures == {"extension", "image", "prompt", "video"} and text.count("](") == 4
    measured = json.loads((tmp_path / "report" / "report.json").read_text())
    assert len(measured["sections"]) == 7 and len(measured["targets"]) >= 16
    changes = {row["name"]: row["readings"] for row in measured["sections"][0]["rows"]}
    assert changes["blend"]["others kept, 1–2 s"]["count"] == 3 and changes["cut"]["new seen, 2–4 s"]["count"] == 1
