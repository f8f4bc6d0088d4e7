"""What the page shows of a session: which tool ran on which artefact, what it made, and nothing that runs."""

from pathlib import Path

import numpy as np

from pretrain.assistant.artefacts import Session
from pretrain.assistant.calls import Answer, Call, Turn
from pretrain.assistant.film_choice import FilmChoice
from pretrain.assistant.mask_file import MaskFile
from pretrain.assistant.page_parts import about_page, artefact_list, conversation, links
from pretrain.assistant.pictures import write_picture
from tests.helpers.videos import make

HOSTILE = "<img src=x onerror=alert(1)>"


def session_with_a_cut_out(folder: Path) -> Session:
    session = Session(folder / "session")
    film = session.refer("film", Path(make(folder / "film.mp4", frames=2)), about=HOSTILE)
    track = session.add("track", ".sqlite", MaskFile.create, parents=(film.id,), tool="segment", object_id="obj1")
    pixels = np.zeros((4, 4, 3), np.uint8)
    session.add(
        "picture", ".png", lambda path: write_picture(path, pixels), parents=(film.id, track.id), tool="cut_out"
    )
    return session


def test_an_answer_lists_the_tools_their_artefacts_and_what_they_made(tmp_path: Path) -> None:
    session = session_with_a_cut_out(tmp_path)
    calls = (
        Call("cut_out", {"object": "obj1", "frame": 3, "film": None}, "Done.", ("picture1",)),
        Call("read_text", {"point": (1.0, 2.0), "objects": []}, "No text.", failed=True),
    )
    turn = Turn("Cut it out.", Answer("It was cut out.", calls), ("obj1",), 3, ["the model's plan was refused"])
    asked, first, second, answer = conversation("/session/NAME", session, [turn])
    assert asked["role"] == "user" and "pointing at obj1 in frame 3" in asked["content"]
    assert first["metadata"]["title"] == "cut_out: object obj1 (track1), frame 3 → picture1"
    assert second["metadata"]["title"] == "read_text: point 1.0, 2.0 (failed)"
    assert answer["content"].startswith("It was cut out.") and "the model's plan was refused" in answer["content"]
    assert "![picture1](/session/NAME/artefact/picture1)" in answer["content"]


def test_words_of_users_models_and_files_are_never_markup(tmp_path: Path) -> None:
    session = session_with_a_cut_out(tmp_path)
    turn = Turn(HOSTILE, Answer(HOSTILE, (Call("say", {"words": HOSTILE}, HOSTILE),)), (), 0, [HOSTILE])
    messages = conversation("/session/NAME", session, [turn])
    shown = [each["content"] for each in messages] + [messages[1]["metadata"]["title"]]
    shown += [artefact_list("/session/NAME", session), links("/session/NAME", [(HOSTILE, HOSTILE)])]
    assert all("<img" not in each and "&lt;img" in each for each in shown)


def test_artefacts_are_listed_with_their_lineage_and_only_own_files_are_saved(tmp_path: Path) -> None:
    table = artefact_list("/session/NAME", session_with_a_cut_out(tmp_path))
    assert "cut_out film1, track1" in table and "/session/NAME/artefact/picture1?save=true" in table
    assert "/artefact/film1" not in table and "/artefact/track1" not in table


def test_the_page_tells_what_it_may_read(tmp_path: Path) -> None:
    text = about_page(FilmChoice((tmp_path,), tmp_path / "uploads", 3 * 2**20), ["One fact."])
    assert str(tmp_path.resolve()) in text and "at most 3 MiB" in text and "- One fact." in text
    assert "none: upload a film" in about_page(FilmChoice((), tmp_path), [])
