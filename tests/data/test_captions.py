"""Captions come from tables, files beside a video and templates; what is unclear is refused."""

from pathlib import Path

import pytest

from causvid.data.captions import Captions, read_table


def test_captions_come_from_the_first_place_that_has_one(tmp_path: Path) -> None:
    for name in "abcde":
        (tmp_path / f"{name}.mp4").touch()
    (tmp_path / "a.txt").write_text("beside\n")
    (tmp_path / "b.txt").write_text(" two\nlines ")
    (tmp_path / "c.json").write_text('{"fps": 8, "caption": "of JSON"}')
    (tmp_path / "d.json").write_text('{"fps": 8}')
    (tmp_path / "t.csv").write_text('file_name,text\na.mp4,"of, the table"\n')
    texts = Captions(read_table(tmp_path / "t.csv"), "{name} in {folder}")
    found = [texts.of(tmp_path / f"{name}.mp4") for name in "abce"]
    assert found[:3] == ["of, the table", "two lines", "of JSON"] and found[3].startswith("e in test captions come")
    with pytest.raises(ValueError, match=r"d.json has no caption: expected one of caption, text, prompt"):
        texts.of(tmp_path / "d.mp4")
    with pytest.raises(ValueError, match="it has no caption"):
        Captions().of(tmp_path / "e.mp4")
    for wrong in ("{place}", "{name", " "):
        with pytest.raises(ValueError, match="caption="):
            Captions(template=wrong)


def test_a_table_names_files_by_the_end_of_their_path(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("file,caption\na/1.mp4,of a\nb/1.mp4,of b\n2,of two\n")
    texts = Captions(read_table(tmp_path / "t.csv"))
    files = (tmp_path / "a" / "1.mp4", Path("b/1.mp4"), Path("clips/2.mp4"))
    assert [texts.of(file) for file in files] == ["of a", "of b", "of two"]


def test_two_captions_of_one_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("file,caption\na.mp4,one\na.mp4,two\n")
    with pytest.raises(ValueError, match=r"t\.csv has two captions for a\.mp4"):
        read_table(tmp_path / "t.csv")
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "a.json").write_text('"two"')
    with pytest.raises(ValueError, match=r"it has two captions, in a\.txt and a\.json"):
        Captions().of(tmp_path / "a.mp4")
    (tmp_path / "a.json").write_text('"one"')
    assert Captions().of(tmp_path / "a.mp4") == "one"


def test_captions_are_read_from_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    parquet.write_table(pyarrow.table({"video": ["a.mp4"], "prompt": ["a swan"], "n": [1]}), tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet") == {"a.mp4": "a swan"}
    parquet.write_table(pyarrow.table({"n": [1]}), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"has columns n: expected one of file, .* and one of caption, text, prompt"):
        read_table(tmp_path / "t.parquet")
