"""Published lists of questions through their recipes: EgoSchema, NExT-QA and Video-MME, and what is refused."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import yaml
from lightning import Trainer

from datamodules.clips.eval_views import BicubicSquare
from datamodules.decoding.reader import PyAV
from datamodules.sources.annotated.rows import Join
from datamodules.sources.annotated.tables import Table
from pretrain.chat.answerer import Request, Writing
from pretrain.cli import main
from pretrain.metrics import mvbench_rules as rules
from pretrain.questions.ask import AnswerQuestions
from pretrain.questions.clips import shown_frames
from pretrain.questions.data import ClipBatches, Questions, share_by_video
from pretrain.questions.question import Question
from pretrain.questions.sets import QuestionList
from tests.helpers.chat import Known
from tests.helpers.paths import ROOT
from tests.helpers.videos import make, two_rates

RECIPES = ("mvbench", "egoschema", "nextqa", "videomme", "activitynet_qa_open")


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_read_by_the_command(name: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["test", "-c", str(ROOT / f"recipes/eval/{name}.yaml"), "--print_config"])
    assert stop.value.code == 0
    truth = yaml.safe_load(capsys.readouterr().out)
    assert truth["model"]["class_path"].endswith("AnswerQuestions")
    assert truth["data"]["init_args"]["frames"] == 16 and truth["trainer"]["logger"] is False


def of_recipe(name: str, folder: Path, files: str = "") -> QuestionList:
    """The list of a recipe, with its files in a folder."""
    page = yaml.safe_load((ROOT / f"recipes/eval/{name}.yaml").read_text())
    found = page["data"]["init_args"]["questions"]["init_args"]
    text = json.dumps(found).replace(f"data/{files or name}", str(folder))
    arguments = json.loads(text)
    joins = [Join(Table(**j["table"]), j["ours"], j["theirs"]) for j in arguments.pop("join", [])]
    return QuestionList(**{**arguments, "table": Table(**arguments["table"])}, join=joins)


def test_egoschema_takes_the_questions_with_public_answers(tmp_path: Path) -> None:
    entry = {f"option {i}": f"C does {i}" for i in range(5)}
    questions = [{"q_uid": uid, "question": "What is C doing?", **entry} for uid in ("u1", "u2", "u3")]
    (tmp_path / "questions.json").write_text(json.dumps(questions))
    (tmp_path / "subset_answers.json").write_text(json.dumps({"u1": 3, "u3": 0}))
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/u1.mp4").touch()
    benchmark = of_recipe("egoschema", tmp_path).read()
    (one,) = benchmark.questions
    assert (one.answer, one.candidates[4], one.place) == ("C does 3", "C does 4", str(tmp_path / "videos/u1.mp4"))
    assert benchmark.lost == {"all": ["u3"]} and "1 of 2 questions" in benchmark.manifest()
    with pytest.raises(FileNotFoundError, match="partial true"):
        benchmark.require_all()


def test_nextqa_is_counted_by_type_and_found_in_subfolders(tmp_path: Path) -> None:
    head = "video,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4\n"
    rows = "123,10,4,4,why,1,0,CW,a,b,c,d,e\n123,10,4,4,how,4,1,CH,a,b,c,d,e\n"
    (tmp_path / "test.csv").write_text(head + rows)
    (tmp_path / "videos/0001").mkdir(parents=True)
    (tmp_path / "videos/0001/123.mp4").touch()
    benchmark = of_recipe("nextqa", tmp_path).read()
    assert [(q.task, q.answer) for q in benchmark.questions] == [("CW", "b"), ("CH", "e")]
    (tmp_path / "test.csv").write_text(head + rows.replace("how,4", "how,5"))
    with pytest.raises(ValueError, match="line 3: the answer '5' is no index of 5 options"):
        of_recipe("nextqa", tmp_path).read()


def test_open_questions_are_left_to_a_judge(tmp_path: Path) -> None:
    (tmp_path / "test_q.json").write_text('[{"video_name": "v", "question": "what is it", "question_id": "v_0"}]')
    (tmp_path / "test_a.json").write_text('[{"answer": "a cat", "type": 3, "question_id": "v_0"}]')
    listed = of_recipe("activitynet_qa_open", tmp_path, "activitynet_qa")
    listed.videos = str(tmp_path)
    make(tmp_path / "v_v.mp4", frames=8, height=64, width=64)
    model = AnswerQuestions(out=str(tmp_path / "out"), answerer=Known(), system="", system_in_question=False)
    quiet = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu"}
    Trainer(**quiet).test(model, Questions(listed, frames=4, workers=0), verbose=False)
    (answer,) = model.answers()
    assert (answer.reply, answer.answer, answer.task, answer.candidates) == ("a shape", "a cat", "type 3", ())
    page = (tmp_path / "out/report.md").read_text()
    assert "1 open answers, which a judge scores" in page and "Percent right" not in page
    assert model.request(model.questions[answer.question], torch.zeros(3, 4, 8, 8)).conversation.turns[0].prefix == ""


def videomme(folder: Path) -> QuestionList:
    """One question of Video-MME in its published layout: a list in parquet, a video of 4 s, and subtitles."""
    from pyarrow import Table as Columns
    from pyarrow.parquet import write_table

    options = ["A. Apples.", "B. Candles.", "C. Berries.", "D. All."]
    row = {"videoID": "v", "duration": "short", "question": "What?", "options": options, "answer": "C"}
    for name in ("videomme", "data", "subtitle"):
        (folder / name).mkdir()
    write_table(Columns.from_pylist([row]), folder / "videomme/test-00000-of-00001.parquet")
    make(folder / "data/v.mp4", frames=48, fps=12, height=64, width=64)
    lines = (
        "00:00:00,000 --> 00:00:00,400\nearly",
        "00:00:00,400 --> 00:00:01,900\nfirst",
        "00:00:03,900 --> 9:00:00,000\nlate",
    )
    (folder / "subtitle/v.srt").write_text("\n\n".join(f"{i}\n{line}" for i, line in enumerate(lines, 1)))
    return of_recipe("videomme", folder)


def test_videomme_is_parquet_and_has_options_with_letters(tmp_path: Path) -> None:
    benchmark = videomme(tmp_path).read()
    (one,) = benchmark.questions
    assert one.candidates == ("Apples.", "Candles.", "Berries.", "All.") and one.answer == "Berries."
    assert one.task == "short" and one.subtitles is None and "subtitles" not in benchmark.manifest()
    (tmp_path / "videomme/test-00000-of-00001.parquet").write_bytes(b"no parquet")
    with pytest.raises(ValueError, match="damaged or no parquet"):
        of_recipe("videomme", tmp_path).read()


def test_a_part_lies_where_its_times_are(tmp_path: Path) -> None:
    path, _ = two_rates(tmp_path / "v.mkv")
    question = Question("t", 0, "v", path, "What?", ("a", "b"), "a", start=4.0, end=12.0)
    with PyAV().open(path) as video:
        shown = shown_frames(question, video, 4, "none")
        assert ((shown >= 54) & (shown <= 77)).all()  # frames 54 to 77 are shown from 4 to 12 s
        assert video.seconds(shown).min() < 6 and video.seconds(shown).max() > 10


def test_subtitles_at_the_shown_frames_stand_before_the_question(tmp_path: Path) -> None:
    asked = videomme(tmp_path)
    asked.subtitles = str(tmp_path / "subtitle")
    listener, prompts = Listener(), {}
    for control, frames in (("none", 4), ("no_video", 4), ("one_frame", 1)):
        data = Questions(asked, frames=frames, workers=0, control=control)
        model = AnswerQuestions(out=str(tmp_path / control), answerer=listener)
        Trainer(logger=False, enable_progress_bar=False, accelerator="cpu").test(model, data, verbose=False)
        (request,) = listener.requests
        prompts[control], listener.requests = request.conversation.turns[0], []
    # frames at 0.42, 1.42, 2.42 and 3.33 s, and one at 1.92 s
    expected = rules.SYSTEM + rules.official_question("What?", ("Apples.", "Candles.", "Berries.", "All."))
    assert prompts["none"].question == f"This video's subtitles are listed below:\nfirst\n{expected}"
    assert prompts["no_video"].question == prompts["none"].question and not prompts["no_video"].media
    assert prompts["one_frame"].question == expected
    assert "subtitles: of the videos of 1 questions" in (tmp_path / "none/report.md").read_text()
    (tmp_path / "subtitle/v.srt").write_text("no subtitles")
    clips = ClipBatches(2 * asked.read().questions, PyAV(), BicubicSquare(), 4, 64, "none", 2)
    assert clips.rows(0) == 2 and clips.shapes(0) == {"video": (2, 4, 64, 64, 3)}, "processes share the rows"
    skipped, again = clips[0]["skipped"]
    assert skipped == again and clips[0]["weight"].tolist() == [0.0, 0.0] and not clips[0]["video"].any()
    assert skipped[0].endswith("v.srt") and "no line with times" in skipped[1]
    (tmp_path / "subtitle/v.srt").unlink()
    assert asked.read().questions[0].subtitles is None
    asked.subtitles = str(tmp_path / "none there")
    with pytest.raises(FileNotFoundError, match="no folder of subtitles"):
        asked.read()


class Listener(Known):
    """Keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__("blind")
        self.requests: list[Request] = []

    def answer(self, requests: Sequence[Request], writing: Writing) -> list[str]:
        self.requests += requests
        return super().answer(requests, writing)


def test_questions_about_one_part_of_a_video_are_asked_together() -> None:
    def question(number: int, place: str, start: float | None = None, end: float | None = None) -> Question:
        return Question("t", number, place, place, "What?", ("a", "b"), "a", start, end)

    asked = [
        question(0, "b"),
        question(1, "a", 1.0, 2.0),
        question(2, "b"),
        question(3, "a"),
        question(4, "a", 1.0, 2.0),
    ]
    assert [each.number for each in share_by_video(asked, 0, 1)] == [3, 1, 4, 0, 2]
    assert [[each.number for each in share_by_video(asked, rank, 2)] for rank in (0, 1)] == [[3, 1], [4, 0, 2]]
