"""Published lists of questions through their recipes: EgoSchema, NExT-QA and Video-MME, and what is refused."""

import json
from pathlib import Path

import pytest
import yaml

from datamodules.sources.annotated.rows import Join
from datamodules.sources.annotated.tables import Table
from pretrain.cli import main
from pretrain.questions.sets import QuestionList
from tests.helpers.paths import ROOT

RECIPES = ("mvbench", "egoschema", "nextqa", "videomme")


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_read_by_the_command(name: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["test", "-c", str(ROOT / f"recipes/eval/{name}.yaml"), "--print_config"])
    assert stop.value.code == 0
    truth = yaml.safe_load(capsys.readouterr().out)
    assert truth["model"]["class_path"].endswith("AnswerQuestions")
    assert truth["data"]["init_args"]["frames"] == 16 and truth["trainer"]["logger"] is False


def of_recipe(name: str, folder: Path) -> QuestionList:
    """The list of a recipe, with its files in a folder."""
    page = yaml.safe_load((ROOT / f"recipes/eval/{name}.yaml").read_text())
    found = page["data"]["init_args"]["questions"]["init_args"]
    text = json.dumps(found).replace(f"data/{name}", str(folder))
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


def test_videomme_has_options_with_letters(tmp_path: Path) -> None:
    options = ["A. Apples.", "B. Candles.", "C. Berries.", "D. All."]
    row = {"videoID": "v", "duration": "short", "question": "What?", "options": options, "answer": "C"}
    (tmp_path / "test.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/v.mp4").touch()
    (one,) = of_recipe("videomme", tmp_path).read().questions
    assert one.candidates == ("Apples.", "Candles.", "Berries.", "All.") and one.answer == "Berries."
    assert one.task == "short"
