"""A file of JSON lines only grows, and a killed writer's half line is written over."""

from pathlib import Path

import pytest

from datamodules.storage.append_lines import AppendedLines


def test_half_a_line_is_written_over_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    file = AppendedLines(tmp_path / "new/rows.jsonl")
    assert file.read(dict) == []
    file.add({"a": 1}, {"a": 2})
    with open(file.path, "ab") as stream:
        stream.write(b'{"a": 3')
    again = AppendedLines(file.path)
    assert [row["a"] for row in again.read(dict)] == [1, 2]
    again.add({"a": 4})
    assert [row["a"] for row in AppendedLines(file.path).read(dict)] == [1, 2, 4]
    with pytest.raises(ValueError, match="line 1 is damaged"):
        again.read(lambda row: row["b"])
    file.path.write_bytes(b'{"a": 1}\nno json\n')
    with pytest.raises(ValueError, match="line 2 is damaged"):
        AppendedLines(file.path).read(dict)
