"""VBench's prompts: from the package or a file, by file name, by category; names that collide."""

import json
from pathlib import Path

import pytest

from pretrain.metrics.vbench import prompts
from pretrain.metrics.vbench.dimensions import kinetics_400
from pretrain.metrics.vbench.prompts import (
    by_text,
    category_prompts,
    collisions,
    prompts_of_files,
    read_suite,
)

ENTRIES = [
    {"prompt_en": "a red cat", "dimension": ["color"], "auxiliary_info": {"color": {"color": "red"}}},
    {"prompt_en": "alley", "dimension": ["scene", "background_consistency"]},
    {"prompt_en": "a red cat", "dimension": ["object_class"], "auxiliary_info": {"object_class": {"object": "cat"}}},
]


def test_a_suite_is_read_from_a_file_and_a_prompt_of_two_groups_has_the_dimensions_of_both(tmp_path: Path) -> None:
    file = tmp_path / prompts.FILE
    file.write_text(json.dumps(ENTRIES))
    suite = read_suite(file)
    assert [prompt.text for prompt in suite] == ["a red cat", "alley", "a red cat"]
    cat = by_text(suite)["a red cat"]
    assert cat.dimensions == ("color", "object_class") and cat.auxiliary["object_class"] == {"object": "cat"}
    file.write_text('{"prompt_en": "alley"}')
    with pytest.raises(ValueError, match="is no list of VBench's entries"):
        read_suite(file)


def test_the_package_is_found_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "vbench"
    (package / "third_party/umt").mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('not meant to be imported')")
    (package / prompts.FILE).write_text(json.dumps(ENTRIES))
    names = [f"class {i}\t{i}" for i in reversed(range(400))]
    (package / "third_party/umt/kinetics_400_categories.txt").write_text("\n".join(names))
    monkeypatch.syspath_prepend(str(tmp_path))
    assert len(read_suite()) == 3
    assert kinetics_400()[:2] == ["class 0", "class 1"]
    (package / "third_party/umt/kinetics_400_categories.txt").write_text("\n".join(names[1:]))
    with pytest.raises(ValueError, match="does not number 400 classes"):
        kinetics_400()


def test_without_the_package_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(prompts, "package_folder", lambda: None)
    with pytest.raises(FileNotFoundError, match="pip install --no-deps vbench"):
        read_suite()
    with pytest.raises(FileNotFoundError, match="no prompts at"):
        read_suite(tmp_path / "none.json")


def test_prompts_of_files(tmp_path: Path) -> None:
    paths = [tmp_path / "a red cat-3.mp4", tmp_path / "alley.gif"]
    assert list(prompts_of_files(paths).values()) == ["a red cat", "alley"]
    given = {"a red cat-3.mp4": "a cat", str(paths[1]): "a street"}
    assert list(prompts_of_files(paths, given).values()) == ["a cat", "a street"]
    with pytest.raises(ValueError, match=r"alley.gif: the file of prompts does not name it"):
        prompts_of_files(paths, {"a red cat-3.mp4": "a cat"})


def test_names_that_differ_in_case_only_are_reported() -> None:
    assert collisions(["x/A fantasy landscape-0.mp4", "x/a fantasy landscape-0.mp4", "x/b-0.mp4"]) == [
        ["A fantasy landscape-0.mp4", "a fantasy landscape-0.mp4"]
    ]


def test_categories(tmp_path: Path) -> None:
    (tmp_path / "animal.txt").write_text("a cat\n\na dog\n")
    assert [prompt.text for prompt in category_prompts("animal", tmp_path)] == ["a cat", "a dog"]
    with pytest.raises(FileNotFoundError, match=r"no category 'food' in .*there are animal"):
        category_prompts("food", tmp_path)
