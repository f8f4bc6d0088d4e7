"""Tools with real models: text by RapidOCR, and tiny random networks of LaVie, diffusers, a classifier, an index."""

from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.decoding.pyav import PyAVVideo
from datamodules.decoding.reader import PyAV
from datamodules.sources.shape_scenes import Scene
from pretrain.assistant.artefacts import Session
from pretrain.assistant.assistant import Assistant
from pretrain.assistant.flow_tracker import FlowTracker
from pretrain.assistant.pictures import write_picture
from pretrain.assistant.toolbox import load_toolbox, toolbox
from pretrain.assistant.tools import generating
from pretrain.cli import main
from pretrain.generation.cascade import Cascade
from pretrain.generation.settings import with_options
from pretrain.generation.tiny import tiny_text_encoder, tiny_tokenizer, tiny_vae, write_tiny
from tests.helpers.runs import ROOT, arguments, fit
from tests.helpers.scenes import click, crossing, write_scene

pytestmark = pytest.mark.slow


def open_assistant(folder: Path, tools, scene: Scene) -> Assistant:
    made = Assistant(Session(folder / "session"), FlowTracker(), [folder], tools)
    made.load(write_scene(folder / "film.mp4", scene))
    return made


def test_text_is_read(tmp_path: Path) -> None:
    import cv2

    picture = np.full((200, 400, 3), 255, np.uint8)
    cv2.putText(picture, "HELLO 42", (20, 60), cv2.FONT_HERSHEY_SIMPLEX, 1.5, (0, 0, 0), 3)
    cv2.putText(picture, "WORLD", (150, 150), cv2.FONT_HERSHEY_SIMPLEX, 1.5, (200, 0, 0), 3)
    write_picture(tmp_path / "sign.png", picture)
    assistant = Assistant(Session(tmp_path / "session"), FlowTracker(), [tmp_path])
    assistant.load(tmp_path / "sign.png")
    assert assistant.ask("read the text").text == "The text at frame 0: HELLO 42\nWORLD"
    tool = assistant.tools["read_text"]
    assert tool.run(assistant, tool.read({"point": [220.0, 135.0]})).said == "The text at frame 0 there: WORLD"
    assistant.close()


def test_lavie_generates_a_film(tmp_path: Path) -> None:
    write_tiny(tmp_path / "weights", stages=("base",))
    cascade = Cascade(tmp_path / "weights", ("base",), progress=False)
    options = with_options(("base",), {"steps": {"all": 2}})
    settings = {"stages": ("base",), "frames": 3, "height": 16, "width": 16, "settings": options}
    assistant = open_assistant(tmp_path, toolbox(generating.tools(cascade, settings)), crossing(3))
    answer = assistant.ask("generate a film of a red circle")
    assert assistant.show(answer.calls[0].made[0]).frames == 3, answer.text
    assert not [each for each in assistant.session.folder.iterdir() if each.is_dir()], "nothing else is left"
    assistant.close()


def test_diffusers_replaces_an_object_and_edits_a_film(tmp_path: Path) -> None:
    from diffusers import DDIMScheduler, StableDiffusionInpaintPipeline, UNet2DConditionModel

    torch.manual_seed(0)
    blocks = {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    }
    unet = UNet2DConditionModel(
        8, 9, 4, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, cross_attention_dim=32,
        attention_head_dim=2, **blocks,
    )  # fmt: skip
    StableDiffusionInpaintPipeline(
        tiny_vae(4),
        tiny_text_encoder(),
        tiny_tokenizer(),
        unet,
        DDIMScheduler(),
        None,
        None,
        requires_safety_checker=False,
    ).save_pretrained(tmp_path / "pipeline")
    editor = generating.DiffusersEditor(tmp_path / "pipeline", steps=2)
    scene = crossing(3)
    assistant = open_assistant(tmp_path, toolbox(generating.tools(editor=editor)), scene)
    assistant.point(click(scene, 0))
    answer = assistant.ask("replace it by a cat", ["obj1"])
    assert not answer.calls[-1].failed, answer.text
    with PyAV().open(str(assistant.artefact(answer.calls[-1].made[0]).path)) as video:
        frames = video.frames(range(3)).astype(int)
    for index, frame in enumerate(frames):
        changed = np.abs(frame - scene.frames([index])[0]).max(-1) > 40
        true = scene.masks(index)[0]
        assert changed[true].mean() > 0.5 and changed[~true].mean() < 0.1
    answer = assistant.ask("make the film look like winter")
    assert not answer.calls[-1].failed and assistant.show(answer.calls[0].made[0]).frames == 3
    assistant.close()


def test_an_action_is_recognised_and_videos_are_found(tmp_path: Path) -> None:
    classes = fit(tmp_path / "classes", ["-c", str(ROOT / "recipes/finetune_tiny.yaml")], "--trainer.max_steps=2")
    recipe = ["-c", str(ROOT / "recipes/viclip_tiny.yaml")]
    pair = fit(tmp_path / "pair", recipe, "--trainer.max_steps=2", "--trainer.val_check_interval=2")
    (tmp_path / "mine").mkdir()
    for name in ("a.mp4", "b.mp4"):
        write_scene(tmp_path / "mine" / name, crossing(40))
    more = [
        f"--ckpt_path={pair / 'checkpoints/step=0000002.ckpt'}",
        "--data.init_args.predict=Files",
        f"--data.init_args.predict.init_args.path={tmp_path / 'mine'}",
        "--data.init_args.stride=3",
    ]
    main(["predict", *arguments(tmp_path / "index", recipe, *more)[1:]])
    tools = load_toolbox(classifier=str(classes), index=str(tmp_path / "index/run/features"))
    assistant = open_assistant(tmp_path, tools, crossing(20))
    text = assistant.ask("recognise the action").text
    assert text.startswith("This looks like: ") and text.count("%") == 3, text
    together = []
    with pytest.MonkeyPatch.context() as patch:  # frames are scaled one by one: all of a clip in 4K have 400 MB
        frames = PyAVVideo.frames
        patch.setattr(PyAVVideo, "frames", lambda video, at: together.append(len(at)) or frames(video, at))
        assert assistant.ask("recognise the action").text == text and max(together) == 1
    answer = assistant.ask("search my videos for a red circle")
    assert "a.mp4 (" in answer.text and "b.mp4 (" in answer.text
    assert assistant.artefact(answer.calls[0].made[0]).path.read_text().startswith("score,video\n")
    assistant.close()
    with pytest.raises(ValueError, match="recognises no classes"):
        load_toolbox(classifier=str(pair))
