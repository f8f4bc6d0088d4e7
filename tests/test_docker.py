"""The files that the image copies exist, and the command that compose runs parses."""

import re
import shlex
import tomllib
from configparser import ConfigParser

import pytest
import yaml

from pretrain.cli import main
from tests.helpers.paths import ROOT

IMAGE = (ROOT / "docker/Dockerfile").read_text().replace("\\\n", " ")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PYTHON = {"ubuntu22.04": (3, 10), "ubuntu24.04": (3, 12)}  # python3 of a base


def copied() -> list[str]:
    return [source for line in re.findall(r"^COPY (.*)$", IMAGE, re.MULTILINE) for source in shlex.split(line)[:-1]]


def test_the_image_copies_existing_files_and_all_it_needs() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert all((ROOT / source).exists() and source not in ignored for source in copied())
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    packages = [name.rstrip("*") for name in setup["options.packages.find"]["include"].split()]
    assert {*packages, "pyproject.toml", "setup.cfg", PROJECT["readme"], "recipes", "tools"} <= set(copied())
    install = IMAGE.index("pip install")
    assert all(IMAGE.index(f"COPY {package} ") < install for package in packages)


def test_python_is_new_enough_and_the_extras_exist() -> None:
    base = re.search(r"^FROM \S*-(ubuntu[\d.]+)$", IMAGE, re.MULTILINE).group(1)
    wanted = tuple(int(part) for part in PROJECT["requires-python"].removeprefix(">=").split("."))
    assert PYTHON[base] >= wanted
    extras = re.search(r"'\.\[([\w,]+)\]'", IMAGE).group(1).split(",")
    assert set(extras) <= set(PROJECT["optional-dependencies"])


def test_compose_builds_that_image_and_its_command_parses(capsys: pytest.CaptureFixture) -> None:
    service = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())["services"]["tubelet"]
    assert (ROOT / "docker" / service["build"]["context"] / service["build"]["dockerfile"]).exists()
    folder = re.search(r"^WORKDIR (\S+)$", IMAGE, re.MULTILINE).group(1)
    assert all(volume.split(":")[1].startswith(folder + "/") for volume in service["volumes"])
    assert re.search(r"^ENTRYPOINT (.*)$", IMAGE, re.MULTILINE).group(1) == '["python", "-m", "pretrain"]'
    words = [re.sub(r"\$\{\w+:-(.*?)\}", r"\1", word) for word in shlex.split(service["command"])]
    words = [str(ROOT / word) if word.startswith("recipes/") else word for word in words]
    with pytest.raises(SystemExit) as stop:
        main([*words, "--print_config"])
    assert stop.value.code == 0 and "--ckpt_path" in words and "VideoMAE" in capsys.readouterr().out
