"""The session store: ids, kinds, lineage, limits, resuming, and sessions that do not see each other."""

from pathlib import Path

import pytest

from datamodules.storage.lock import InUse
from pretrain.assistant.artefacts import Limits, Session, Sessions


def text(content: str):
    return lambda path: path.write_text(content)


def test_artefacts_have_ids_kinds_and_lineage(tmp_path: Path) -> None:
    session = Session(tmp_path / "s")
    film = session.refer("film", Path(__file__), about="a film")
    mask = session.add("mask", ".png", text("m"), parents=(film.id,), tool="segment", object_id="obj1")
    cut = session.add("picture", ".png", text("c"), parents=(mask.id,), tool="cut_out")
    assert [film.id, mask.id, cut.id] == ["film1", "mask1", "picture1"]
    assert session.lineage(cut.id) == (film, mask, cut)
    assert session.get("mask1", "mask").object_id == "obj1"
    with pytest.raises(ValueError, match="mask1 is a mask, and a film is needed"):
        session.get("mask1", "film")
    with pytest.raises(ValueError, match="has no 'mask9'"):
        session.add("mask", ".png", text("m"), parents=("mask9",), tool="segment")
    with pytest.raises(ValueError, match="picture1 came of mask1"):
        session.delete(mask.id)
    session.delete(cut.id)
    assert not cut.path.exists()
    assert session.add("picture", ".png", text("c"), tool="cut_out").id == "picture2", "ids are not used again"


def test_a_session_is_resumed_also_after_a_killed_writer(tmp_path: Path) -> None:
    session = Session(tmp_path / "s")
    film = session.refer("film", Path(__file__))
    mask = session.add("mask", ".png", text("m"), parents=(film.id,), tool="segment", about="it", object_id="obj1")
    session.delete(session.add("text", ".txt", text("t"), tool="read_text").id)
    session.update_state({"turns": [1]})
    session.update_state({"film": "film1"})
    with pytest.raises(InUse):
        Session(tmp_path / "s")
    session.close()
    with open(tmp_path / "s" / "artefacts.jsonl", "a") as file:
        file.write('{"add": {"id": "mask2"')  # a writer that was killed
    (tmp_path / "s" / ".mask2.png.x.draft").write_text("half")
    again = Session(tmp_path / "s")
    assert again.all() == (film, mask)
    assert again.read_state() == {"turns": [1], "film": "film1"}
    assert again.add("text", ".txt", text("t"), tool="read_text").id == "text2"
    assert not list((tmp_path / "s").glob(".*.draft"))


def test_a_damaged_list_is_named(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "artefacts.jsonl").write_text('{"add": {"id": "../../etc", "kind": "mask", "path": "x"}}\n')
    with pytest.raises(ValueError, match=r"artefacts.jsonl, line 1 is damaged"):
        Session(tmp_path / "s")
    (tmp_path / "s" / "artefacts.jsonl").unlink()
    Session(tmp_path / "s")  # the lock was let go


def test_limits_refuse_and_leave_nothing(tmp_path: Path) -> None:
    session = Session(tmp_path / "s", Limits(bytes=4000, artefacts=2))
    session.add("text", ".txt", text("small"), tool="read_text")
    with pytest.raises(ValueError, match="MiB are allowed: delete what is not needed"):
        session.add("film", ".mp4", text("x" * 5000), tool="remove")
    assert [each.id for each in session.all()] == ["text1"] and not list(session.folder.glob("*.mp4"))
    session.add("text", ".txt", text("small"), tool="read_text")
    with pytest.raises(ValueError, match="2 artefacts, as many as allowed"):
        session.add("text", ".txt", text("small"), tool="read_text")

    def fails(path: Path) -> None:
        path.write_text("half")
        raise OSError("disk full")

    session.delete("text1")
    with pytest.raises(OSError, match="disk full"):
        session.add("text", ".txt", fails, tool="read_text")
    assert len(list(session.folder.glob("*.txt"))) == 1


def test_sessions_do_not_see_each_other(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path, Limits(sessions=2))
    (one, first), (two, second) = sessions.new(), sessions.new()
    first.add("text", ".txt", text("secret"), tool="read_text")
    assert second.all() == () and one != two
    with pytest.raises(ValueError, match="this session has no 'text1'"):
        second.get("text1")
    assert sessions.open(one) is first
    for wrong in ("x" * 32, "../" + one, one[:-1], ""):
        with pytest.raises(ValueError, match="no such session"):
            sessions.open(wrong)
    with pytest.raises(ValueError, match="as many as allowed"):
        sessions.new()
    sessions.close(one)
    assert len(sessions.open(one).all()) == 1, "it stays on disk"
    sessions.delete(one)
    with pytest.raises(ValueError, match="no such session"):
        sessions.open(one)
