"""SAM 2 and EdgeTAM as trackers, with tiny random weights: same interface, memory of a window, both directions."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pretrain.assistant.prompts import Box, Mask
from pretrain.assistant.sam_tracker import SamTracker, load_sam_tracker
from pretrain.assistant.tracker import Cancelled
from tests.helpers.scenes import click, crossing

pytestmark = pytest.mark.slow
SIZE = 128  # of the pictures that the model sees; its features have an eighth to a thirty-second of it
GRID = [[SIZE // 4] * 2, [SIZE // 8] * 2, [SIZE // 16] * 2]


def tiny(kind: str) -> tuple[Any, Any]:
    """A model of random weights, and its processor."""
    import transformers as t

    torch.manual_seed(0)
    backbone = {
        **{"model_type": "sam2_hiera_det_model", "hidden_size": 12, "image_size": [SIZE, SIZE]},
        **{"blocks_per_stage": [1, 2, 2, 1], "embed_dim_per_stage": [12, 24, 48, 96]},
        **{"num_attention_heads_per_stage": [1, 1, 2, 2], "window_size_per_stage": [8, 4, 4, 4]},
        **{"global_attention_blocks": [4], "window_positional_embedding_background_size": [4, 4]},
    }
    vision = {
        **{"model_type": "sam2_vision_model", "backbone_config": backbone, "fpn_hidden_size": 128},
        **{"backbone_channel_list": [96, 48, 24, 12], "backbone_feature_sizes": GRID},
    }
    sizes = {
        **{"image_size": SIZE, "memory_attention_hidden_size": 128, "memory_encoder_hidden_size": 128},
        **{"memory_encoder_output_channels": 64, "mask_downsampler_embed_dim": 128, "memory_fuser_embed_dim": 128},
        **{"memory_fuser_intermediate_dim": 64, "memory_attention_num_layers": 1, "num_maskmem": 3},
        **{"memory_attention_rope_feat_sizes": GRID[2], "max_object_pointers_in_encoder": 4},
        "prompt_encoder_config": {"hidden_size": 128, "image_size": SIZE},
        "mask_decoder_config": {"hidden_size": 128, "mlp_dim": 64, "iou_head_hidden_dim": 64},
    }
    if kind == "sam2_video":
        model = t.Sam2VideoModel(t.Sam2VideoConfig(vision_config=vision, **sizes))
    else:
        sizes |= {"memory_attention_rope_k_sizes": [4, 4], "perceiver_resampler_num_latents": 16}
        sizes |= {"perceiver_resampler_num_latents_2d": 16}
        model = t.EdgeTamVideoModel(t.EdgeTamVideoConfig(vision_config=vision, **sizes))
    side = {"height": SIZE, "width": SIZE}
    pictures = t.Sam2ImageProcessor(size=side, mask_size={"height": SIZE // 4, "width": SIZE // 4})
    return model.eval(), t.Sam2VideoProcessor(pictures, t.Sam2VideoVideoProcessor(size=side))


@pytest.fixture(scope="module", params=["sam2_video", "edgetam_video"])
def parts(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    return tiny(request.param)


def test_it_does_what_a_tracker_does(parts: tuple[Any, Any]) -> None:
    scene = crossing(16)
    tracker = SamTracker(*parts, chunk=4)
    tracker.start(scene)
    first = tracker.add("a", click(scene, 0, 3))
    assert first.shape == scene.size and first.dtype == bool
    assert not np.array_equal(first, tracker.add("a", click(scene, 1, 3, positive=False))), "points add up"
    exact = scene.masks(3)[1]
    assert np.array_equal(tracker.add("b", Mask(3, exact)), exact), "a mask is taken as it is"
    assert not np.array_equal(tracker.add("b", click(scene, 0, 3)), exact), "and is corrected by points"
    assert tracker.add("c", Box(3, 10, 10, 50, 50)).shape == scene.size
    tracker.add("a", Mask(3, scene.masks(3)[0]))
    tracker.add("b", Mask(3, exact))
    tracker.add("gone", Mask(3, np.zeros(scene.size, bool)))
    for stop, expected in ((16, list(range(4, 16))), (-1, [2, 1, 0])):
        found = list(tracker.propagate(["a", "b", "gone"], 3, stop))
        assert [index for index, _ in found] == expected
        for _, masks in found:
            assert set(masks) == {"a", "b", "gone"} and not masks["gone"].any()
            assert all(mask.shape == scene.size and mask.dtype == bool for mask in masks.values())
    asked: list[int] = []
    with pytest.raises(Cancelled, match="frame 5"):
        list(tracker.propagate(["a"], 3, 16, lambda: asked.append(1) or len(asked) > 1))
    tracker.forget("a", 3)
    with pytest.raises(ValueError, match="a was not pointed at in frame 3"):
        next(tracker.propagate(["a"], 3, 16))


def test_what_it_forgets_changes_nothing(parts: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The masks equal those of transformers' own iterator, which keeps all frames."""
    model, processor = parts
    scene = crossing(14)
    tracker = SamTracker(model, processor)
    tracker.start(scene)
    for number, name in enumerate("ab"):
        tracker.add(name, Mask(0, scene.masks(0)[number]))
    sessions: list[Any] = []
    make = tracker._session
    monkeypatch.setattr(tracker, "_session", lambda size: sessions.append(make(size)) or sessions[-1])
    found = [np.stack(list(masks.values())) for _, masks in tracker.propagate(["a", "b"], 0, 14)]
    (session,) = sessions
    assert len(session.processed_frames) == 1
    assert max(len(o["non_cond_frame_outputs"]) for o in session.output_dict_per_obj.values()) <= tracker.kept
    whole = processor.init_video_session(video=list(scene.frames(range(14))), dtype=torch.float32)
    processor.add_inputs_to_inference_session(whole, 0, [0, 1], input_masks=list(scene.masks(0)))
    with torch.inference_mode():
        model(whole, frame_idx=0)
        theirs = [
            processor.post_process_masks([out.pred_masks], [list(scene.size)], binarize=True)[0][:, 0].numpy()
            for out in model.propagate_in_video_iterator(whole, start_frame_idx=0)
        ]
    assert all(np.array_equal(ours, them) for ours, them in zip(found, theirs[1:], strict=True))
    assert any(mask.any() for mask in found)


def test_it_is_loaded_from_a_folder_of_transformers(tmp_path: Path, parts: tuple[Any, Any]) -> None:
    model, processor = parts
    model.save_pretrained(tmp_path / "it")
    processor.save_pretrained(tmp_path / "it")
    scene, masks = crossing(4), []
    for tracker in (SamTracker(model, processor), load_sam_tracker(tmp_path / "it")):
        tracker.start(scene)
        tracker.add("a", click(scene, 0))
        masks.append([found["a"] for _, found in tracker.propagate(["a"], 0, 4)])
    assert np.array_equal(*masks)
    assert " of it" in tracker.name
    with pytest.raises(ValueError, match=r"holds no config\.json"):
        load_sam_tracker(tmp_path)
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="holds a bert, and a tracker is one of sam2_video, edgetam_video"):
        load_sam_tracker(tmp_path / "bert")
