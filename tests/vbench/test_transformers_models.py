"""Detectors and a captioner of transformers run, with tiny models of random weights, and are named as stand-ins."""

import json
from pathlib import Path

import pytest
import torch

from datamodules.decoding.reader import PyAV
from pretrain.metrics.vbench.plan import plan_standard
from pretrain.metrics.vbench.prompts import Prompt
from pretrain.vbench.builder import Builder
from pretrain.vbench.evaluate import evaluate
from pretrain.vbench.transformers_models import ImageCaptioner, OpenVocabularyDetector
from tests.helpers import videos
from tests.helpers.vbench import AUXILIARY, moving_frames

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat", "dog", "a", "ball", "pit", "."]
BERT = {word: i for i, word in enumerate(WORDS)}


def owl(folder: Path) -> Path:
    from transformers import CLIPTokenizer, Owlv2Config, Owlv2ForObjectDetection, Owlv2ImageProcessor, Owlv2Processor

    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vocabulary = {word: i for i, word in enumerate(["a", "<|startoftext|>", "<|endoftext|>", "b", "c</w>", "d"])}
    text = {**sizes, "vocab_size": len(vocabulary), "pad_token_id": 2, "bos_token_id": 1, "eos_token_id": 2}
    vision = {**sizes, "image_size": 32, "patch_size": 16}
    config = Owlv2Config(text_config=text, vision_config=vision, projection_dim=32)
    Owlv2ForObjectDetection(config).save_pretrained(folder)
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=16)
    Owlv2Processor(Owlv2ImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return folder


def grounding_dino(folder: Path) -> Path:
    from transformers import (
        BertConfig,
        BertTokenizer,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessor,
        GroundingDinoProcessor,
        SwinConfig,
    )

    swin = SwinConfig(
        **{"image_size": 64, "embed_dim": 16, "depths": [1, 1, 1], "num_heads": [1, 2, 4], "window_size": 4},
        out_indices=[2, 3],
    )
    bert = BertConfig(vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    bert.intermediate_size = 32
    layers = {"encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = GroundingDinoConfig(
        backbone_config=swin,
        text_config=bert,
        **layers,
        **{"d_model": 32, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "num_queries": 8, "num_feature_levels": 3},
    )
    GroundingDinoForObjectDetection(config).save_pretrained(folder)
    images = GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
    GroundingDinoProcessor(images, BertTokenizer(vocab=BERT)).save_pretrained(folder)
    return folder


def blip(folder: Path) -> Path:
    from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    special = {"bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
    text = {**sizes, "vocab_size": len(WORDS), "encoder_hidden_size": 32, "projection_dim": 32, **special}
    vision = {**sizes, "image_size": 32, "projection_dim": 32}
    BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision, projection_dim=32)).save_pretrained(
        folder
    )
    images = BlipImageProcessor(size={"height": 32, "width": 32})
    BlipProcessor(images, BertTokenizer(vocab=BERT)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("make", [owl, pytest.param(grounding_dino, marks=pytest.mark.slow)])
def test_a_detector_finds_objects_of_the_wanted_names(make, tmp_path: Path) -> None:
    detector = OpenVocabularyDetector(make(tmp_path / "model"), ["cat", "dog", "cat"], threshold=0.0)
    found = detector(moving_frames(2, size=48).transpose(0, 1))
    assert len(found) == 2 and detector.name.endswith(" of model")
    for frame in found:
        assert len(frame.boxes) > 0 and frame.boxes.isfinite().all() and frame.captions == frame.names
    if make is owl:
        assert {name for frame in found for name in frame.names} <= {"cat", "dog"}
        none = OpenVocabularyDetector(tmp_path / "model", ["cat"], threshold=1.0)
        assert [len(frame.boxes) for frame in none(moving_frames(2, size=48).transpose(0, 1))] == [0, 0]


def test_a_detector_needs_names(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs the names of objects"):
        OpenVocabularyDetector(tmp_path, [])
    with pytest.raises(FileNotFoundError, match="no folder of a model of transformers at"):
        OpenVocabularyDetector(tmp_path / "none", ["cat"])
    with pytest.raises(FileNotFoundError, match="no folder of a model of transformers at"):
        ImageCaptioner(tmp_path / "none")


def test_a_captioner_writes_a_sentence_a_frame(tmp_path: Path) -> None:
    torch.manual_seed(0)
    captioner = ImageCaptioner(blip(tmp_path / "model"), tokens=5)
    captions = captioner(moving_frames(3, size=48).transpose(0, 1))
    assert len(captions) == 3 and captioner.name == "blip of model"
    assert all(set(caption.split()) <= set(WORDS) for caption in captions)


def test_their_scores_bear_their_names(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    videos.make(tmp_path / "videos/a red cat-0.mp4", frames=4, height=32, width=48, fps=8)
    dimensions = ("object_class", "scene")
    plan = plan_standard(tmp_path / "videos", [Prompt("a red cat", dimensions, AUXILIARY)], dimensions)
    places = str(owl(tmp_path / "owl")), str(blip(tmp_path / "blip"))
    builder = Builder(dimensions, detector=places[0], captioner=places[1], labels=("cat", "dog"))
    assert evaluate(plan, builder, tmp_path / "out", PyAV()) == 0
    assert json.loads((tmp_path / "out/vbench_eval_results.json").read_text()) == {}
    found = json.loads((tmp_path / "out/vbench_stand_ins.json").read_text())
    assert list(found) == [
        f"detector {places[0]} in the place of object_class",
        f"captioner {places[1]} in the place of scene",
    ]
    assert all(0 <= value <= 1 for rows in found.values() for value in rows.values())
