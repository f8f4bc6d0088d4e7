"""The parity harness: a key or tensor that a check does not use fails, an absent value is not compared."""

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.helpers.paths import TESTS
from tests.parity import NOT_BUILT, read, run
from tests.parity.find import find

FOLDER = TESTS / "references"
STEMS = sorted(path.stem for path in FOLDER.glob("*.json"))
# Objects whose keys are data, not switches: a check compares or passes on all of them.
DATA = {"tensors", "txt2img", "special_ids", "metrics", "viclip_metrics", "viclip_metrics_dual_softmax", "hf_config"}
DATA |= {"clip4clip", "clip4clip_multi_sentence", "per_param", "params", "groups_in_order"}
DATA |= {"official_input_correct_total"}
DATA |= {"ratio_ddp_mean_to_true_encoder_grad", "files", "raw", "classes_used"}


def switches(value: object, path: tuple = ()) -> list[tuple[tuple, dict]]:
    """The objects of a case in which another switch could stand, with their paths; of a list, the first."""
    found = [(path, value)] if isinstance(value, dict) else []
    inner = (
        list(value.items()) if isinstance(value, dict) else [(0, value[0])] if isinstance(value, list) and value else []
    )
    for key, item in inner:
        if key not in DATA:
            found += switches(item, (*path, key))
    return found


@pytest.mark.parametrize("stem", STEMS)
def test_a_switch_or_a_tensor_that_no_check_uses_fails(stem: str) -> None:
    facts, tensors = read(FOLDER / f"{stem}.json")
    added = ["unheard/of"]
    for path, record in switches(facts):
        record["unheard_of"] = True
        added.append(".".join(part for part in (*path, "unheard_of") if isinstance(part, str)))
    with pytest.raises(AssertionError, match="the check did not use") as error:
        run(facts, {**tensors, "unheard/of": torch.zeros(1)}, stem)
    assert not [name for name in added if repr(name) not in str(error.value)]


# test_variations.py has the case over ranks, which takes seconds a run.
@pytest.mark.parametrize("stem", [stem for stem in STEMS if "ranks" not in stem])
def test_a_case_runs_on_those_expected_values_that_it_has(stem: str) -> None:
    """Without every second value that is compared, and then without the others, it runs and compares the rest."""
    facts, tensors = read(FOLDER / f"{stem}.json")
    compared = sorted(run(copy.deepcopy(facts), dict(tensors), stem).compared, key=str)
    if len(compared) > 1:
        for dropped in (compared[::2], compared[1::2]):
            fewer = copy.deepcopy(facts)
            for path in dropped:
                if isinstance(path, tuple):
                    drop(fewer, path)
            left = run(fewer, {n: t.clone() for n, t in tensors.items() if n not in dropped}, stem).compared
            assert left == set(compared) - set(dropped)


def drop(record: dict, path: tuple) -> None:
    for key in path[:-1]:
        record = record[key]
    del record[path[-1]]


def test_a_wrong_value_is_found_and_a_case_of_no_values_fails() -> None:
    facts, tensors = read(FOLDER / "v2_sinusoid_table.json")
    with pytest.raises(AssertionError, match="table_64x48_rows"):
        run(facts, tensors | {"table_64x48_rows": tensors["table_64x48_rows"] + 1e-5})
    with pytest.raises(AssertionError, match="nothing of this case was compared"):
        run(facts, {})


def test_a_kind_that_is_unknown_fails_and_one_that_is_not_built_is_skipped_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AssertionError, match="no check for a case of kind 'dream'"):
        run({"kind": "dream", "name": "vtc_loss_z"}, {})
    with pytest.raises(AssertionError, match="name 'dream_a'"):
        run({}, {}, "dream_a")
    monkeypatch.setitem(NOT_BUILT, "dream", "dreams are not built yet")
    for name in ("dream_a", "dream_b"):
        (tmp_path / f"{name}.json").write_text('{"kind": "dream"}')
    (parameter,) = find([tmp_path])
    assert parameter.id == "dream x 2"
    assert [mark.kwargs["reason"] for mark in parameter.marks] == ["dreams are not built yet"]


def test_a_case_in_two_folders_runs_once_unless_it_differs(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for path in FOLDER.glob("v2_sinusoid_table.*"):
        shutil.copy(path, tmp_path)
        shutil.copy(path, other)
    assert [parameter.id for parameter in find([tmp_path, other])] == ["v2_sinusoid_table"]
    (other / "v2_sinusoid_table.json").write_text('{"kind": "sinusoid_table"}')
    assert len(find([tmp_path])) == 2


def test_weights_in_files_of_their_own_and_of_another_case_are_read(tmp_path: Path) -> None:
    save_file({"w": torch.ones(2)}, tmp_path / "a.state.safetensors")
    save_file({"x": torch.zeros(2)}, tmp_path / "a.io.safetensors")
    save_file({"y": torch.zeros(2)}, tmp_path / "b.safetensors")
    files = {"a.state.safetensors": 1, "a.io.safetensors": 1}
    (tmp_path / "a.json").write_text(json.dumps({"kind": "k", "files": files}))
    (tmp_path / "b.json").write_text(json.dumps({"kind": "k", "state_from": "a.state.safetensors"}))
    assert set(read(tmp_path / "a.json")[1]) == {"state/w", "x"}
    assert set(read(tmp_path / "b.json")[1]) == {"state/w", "y"}
