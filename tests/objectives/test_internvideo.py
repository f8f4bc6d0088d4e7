"""InternVideo: towers that start as CLIP, dropped patches, causal captions, coordination that starts as
zero, weights in and out, and the chain of stages."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import models
from models.convert import internvideo as names
from models.convert.rules import to_theirs
from pretrain.export.command import export
from pretrain.export.load_run import build, load_objective
from pretrain.learning.masking import Random, RandomFrames
from pretrain.objectives import InternVideo
from tests.helpers.methods import METHODS, resolved
from tests.helpers.paths import ROOT
from tests.helpers.runs import fit

SIZES = {"frames": 4, "size": 32}


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """A model in general position: no parameter stays at 0."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model


def tower(**options) -> models.UniFormerV2:
    return models.UniFormerV2(64, 3, 4, 256, 8, **{"reads": (1, 2), "out": 16, **SIZES, **options})


def pair(**options) -> InternVideo:
    text = models.CLIPText(32, 2, 4, 64, 16, vocabulary=50, context=10, mask_token=True)
    caption = models.CaptionDecoder(32, 2, 4, 64, queries=3, vocabulary=50)
    return InternVideo(tower(), text, caption, words=lambda ids: torch.stack(list(ids)), **options)


def classifiers(size: int = 48, **options) -> models.Coordinated:
    masked = models.VideoClassifier(
        models.VideoViT(48, 8, 3, 96, 8, 2, frames=8, size=32, norm=False), 5, head_scale=1.0
    )
    other = models.UniFormerV2(64, 3, 4, 256, 8, frames=4, size=size, out=None, reads=(1, 2))
    return models.Coordinated(masked, models.UniFormerV2Classifier(other, 5), **options)


VIDEO = torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))
LONG = torch.randn(2, 3, 8, 32, 32, generator=torch.Generator().manual_seed(1))
IDS = torch.tensor([[1, 7, 9, 49, 0, 0], [1, 5, 8, 6, 3, 49]])


def test_a_fresh_tower_is_clip_averaged_over_frames() -> None:
    video_tower = tower().eval()
    clip = models.CLIPVision(64, 3, 4, 256, 8, 32, 16).eval()
    with torch.no_grad():
        clip.norm.bias.normal_()
    state = {name: tensor for name, tensor in clip.state_dict().items()}
    report = models.load_weights(video_tower, state)
    assert not report.unused and all(n.startswith(("query", "balance", "extractors.")) for n in report.missing)
    with torch.no_grad():
        frames = VIDEO.transpose(1, 2).flatten(0, 1)[:, :, None]
        x = clip._embed(frames, None)
        for block in clip.blocks:
            x = block(x)
        expected = clip.proj(clip.norm(x[:, 0].unflatten(0, (2, 4)).mean(1)))
        # LayerNorm takes away that the mean is halved, but for its eps.
        torch.testing.assert_close(video_tower.feature_and_tokens(VIDEO)[0], expected, atol=1e-4, rtol=1e-3)


def test_masked_patches_do_not_reach_the_tower() -> None:
    encoder = randomised(tower()).eval()
    keep = RandomFrames(0.5)(torch.rand(2, 64, generator=torch.Generator().manual_seed(2)), encoder.grid)
    hidden = torch.ones(2, 64, dtype=torch.bool).scatter(1, keep, False).view(2, 1, 4, 4, 4)
    noise = torch.randn_like(VIDEO) * hidden.repeat_interleave(8, 3).repeat_interleave(8, 4)
    with torch.no_grad():
        feature, tokens = encoder.feature_and_tokens(VIDEO, keep)
        assert tokens.shape == (2, 4 * (1 + 8), 64) and encoder(VIDEO, keep).shape == (2, 32, 64)
        assert torch.equal(encoder.feature_and_tokens(VIDEO + noise, keep)[0], feature)
        assert not torch.equal(encoder.feature_and_tokens(VIDEO + noise)[0], encoder.feature_and_tokens(VIDEO)[0])
        everything = torch.arange(64).expand(2, -1)
        torch.testing.assert_close(encoder.feature_and_tokens(VIDEO, everything), encoder.feature_and_tokens(VIDEO))


@pytest.mark.parametrize("options", [{"local": 1}, {"local": 2}, {"downsample": True}])
def test_towers_that_mix_frames_refuse_a_mask(options: dict) -> None:
    encoder = tower(**options)
    assert encoder(VIDEO).shape[1] == encoder.grid[0] * 16
    with pytest.raises(ValueError, match="use RandomFrames or Tube, or no mask"):
        encoder(VIDEO, torch.arange(32).expand(2, -1))


def test_a_fresh_query_ignores_the_order_of_frames() -> None:
    encoder = tower().eval()
    turned = VIDEO.flip(2)
    with torch.no_grad():
        torch.testing.assert_close(encoder.feature_and_tokens(turned)[0], encoder.feature_and_tokens(VIDEO)[0])
        randomised(encoder)
        assert (encoder.feature_and_tokens(turned)[0] - encoder.feature_and_tokens(VIDEO)[0]).abs().max() > 1e-3


def test_a_frozen_tower_trains_its_query_and_extractors() -> None:
    encoder = tower(frozen=True, balance=False)
    encoder.feature_and_tokens(VIDEO)[0].sum().backward()
    trained = {name.partition(".")[0] for name, p in encoder.named_parameters() if p.requires_grad}
    assert trained == {"query", "extractors", "norm", "proj"} and encoder.blocks[0].attn.qkv.weight.grad is None


def test_captions_are_causal_and_depend_on_the_video() -> None:
    model = randomised(pair()).eval()
    with torch.no_grad():
        tokens = model.encoder.feature_and_tokens(VIDEO)[1]
        other = IDS.clone()
        other[:, 3] = 11
        said, again = (model.caption(model.text(ids)[1], tokens) for ids in (IDS, other))
        torch.testing.assert_close(said[:, :3], again[:, :3])
        assert not torch.allclose(said[:, 3], again[:, 3])
        assert not torch.allclose(said, model.caption(model.text(IDS)[1], tokens.flip(0)))


def test_padding_does_not_count_in_captions() -> None:
    model = randomised(pair()).eval()
    batch = {"video": VIDEO, "text": list(IDS), "name": ["a", "b"]}
    longer = {**batch, "text": list(F.pad(IDS, (0, 4)))}
    assert model(batch) == model(longer)
    with torch.no_grad():
        model.logit_scale.fill_(9.0)
    model(batch)
    assert model.logit_scale.item() == pytest.approx(torch.tensor(100.0).log().item())


def test_masked_text_trains_and_images_are_one_frame() -> None:
    model = randomised(pair(hide=0.5, pictures=True)).train()
    batch = {"video": VIDEO, "text": list(IDS), "name": ["a", "b"]}
    model(batch)["caption"].backward()
    assert model.text.mask_embed.grad.any()
    model.eval()
    still = VIDEO[:, :, :1].expand(-1, -1, 4, -1, -1)
    with torch.no_grad():
        assert model(model.on_host({**batch, "video": still})) == model({**batch, "video": VIDEO[:, :, :1]})


def test_parts_that_do_not_fit_raise() -> None:
    text = models.CLIPText(32, 2, 4, 64, 16, vocabulary=50, context=10)
    for parts, words in (
        ((tower(out=8), text), "the video's `out` is 8"),
        ((tower(), text, models.CaptionDecoder(32, 1, 4, 48, 3, 50)), "set its width and video_width"),
        ((tower(), text, models.CaptionDecoder(32, 1, 4, 64, 3, 40)), "set its vocabulary"),
    ):
        with pytest.raises(ValueError, match=words):
            InternVideo(*parts)
    with pytest.raises(ValueError, match="RandomFrames or Tube"):
        InternVideo(tower(), text, mask=Random(0.5))
    with pytest.raises(ValueError, match="mask_token: true"):
        InternVideo(tower(), text, hide=0.1)


def test_a_coordinated_pair_starts_as_the_mean_of_both() -> None:
    model = classifiers().eval()
    with torch.no_grad():
        a, b = model.masked(LONG), model.multimodal(model.multimodal_video(LONG))
        assert torch.equal(model(LONG), 0.5 * a + 0.5 * b)
        for opened in ([*model.cross_models][:1], [model.last_cross_model]):
            for cross_model in opened:
                cross_model.gate1.fill_(1.0)
            assert not torch.allclose(model(LONG), 0.5 * a + 0.5 * b)
            opened[0].gate1.zero_()
        model.mixture.fill_(-30.0)
        torch.testing.assert_close(model(LONG), a)


@pytest.mark.parametrize("tune", [False, True])
def test_a_coordinated_pair_trains_the_stated_parameters(tune: bool) -> None:
    model = randomised(classifiers(tune=tune))
    for _ in range(2):  # at first, and after a call of `train`
        assert model.training and model.masked.encoder.training == model.multimodal.encoder.training == tune
        model.train()
    model(LONG).square().sum().backward()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    encoders = {name for name in trained if ".encoder." in name}
    alone = {"multimodal.encoder.query", "multimodal.encoder.norm.weight", "multimodal.encoder.norm.bias"}
    assert (encoders > alone) if tune else (encoders == alone)


def test_the_multimodal_video_has_its_frames_size_and_statistics() -> None:
    model = classifiers(size=32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))
    pixels = torch.rand(1, 3, 8, 32, 32)
    given = (pixels - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1, 1)) / 0.2
    torch.testing.assert_close(model.multimodal_video(given), (pixels[:, :, 1::2] - 0.45) / 0.225)
    assert classifiers(size=48).multimodal_video(LONG).shape == (2, 3, 4, 48, 48)
    with pytest.raises(ValueError, match="as many as the multimodal encoder has extractors"):
        classifiers(after=[1, 2, 3])


def test_official_files_round_trip(tmp_path: Path) -> None:
    model = randomised(pair())
    theirs, unknown = to_theirs(names.OFFICIAL, model.state_dict())
    theirs |= names.constants(theirs)
    assert all(name.startswith("normalize.") for name in unknown)
    torch.save({"state_dict": {**theirs, "val_accuracy": torch.zeros(1)}, "epoch": 1}, tmp_path / "mm.ckpt")
    fresh = pair()
    report = models.load_weights(fresh, tmp_path / "mm.ckpt")
    assert report.source == "official InternVideo" and report.unused == ["val_accuracy"] and not report.missing
    for name, tensor in fresh.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name
    theirs["caption_decoder.visual_attn_pooler.norm.beta"] += 1  # not a known constant: it must be reported
    assert models.load_weights(pair(), theirs).unused == ["caption_decoder.visual_attn_pooler.norm.beta"]

    classifier = models.UniFormerV2Classifier(tower(out=None), 5)
    report = models.load_weights(classifier, tmp_path / "mm.ckpt")
    assert sorted(report.missing) == ["head.bias", "head.weight"] and "clip.visual_proj" in report.unused
    state, unknown = to_theirs(names.UNIFORMERV2, classifier.state_dict())
    torch.save({"model_state": state, "cfg": "TRAIN: ..."}, tmp_path / "u.pyth")
    again = models.UniFormerV2Classifier(tower(out=None), 5)
    report = models.load_weights(again, tmp_path / "u.pyth")
    assert not unknown and report.source == "official UniFormerV2" and not report.unused and not report.missing
    local = models.load_weights(tower(out=None, local=2), {k: v for k, v in state.items() if "proj.2" not in k})
    assert local.missing and all(".local" in name for name in local.missing)


@pytest.mark.slow
def test_the_chain_of_stages(tmp_path: Path, capsys, caplog: pytest.LogCaptureFixture) -> None:
    """Four stages, each from the checkpoints of those before it, with a report of what was loaded."""
    caplog.set_level("INFO")
    caplog.set_level("INFO", logger="lightning.pytorch")  # other tests raise its level
    steps = ["--trainer.max_steps=2", "--trainer.val_check_interval=2"]

    def stage(name: str, *starts: Path) -> Path:
        caplog.clear()
        more = [f"--model.init_args.weights=[{','.join(map(str, starts))}]"] if starts else []
        run = fit(tmp_path / name, ["-c", str(ROOT / f"recipes/internvideo_{name}_tiny.yaml")], *steps, *more)
        return run / "checkpoints/step=0000002.ckpt"

    def fresh() -> list[str]:
        """The tensors missing in each checkpoint that the stage started from."""
        told = [
            r.getMessage() for r in caplog.records if r.name.startswith("lightning") and "not used" in r.getMessage()
        ]
        return [message.rpartition("left as they were in the model: ")[2] for message in told]

    masked, multimodal = stage("mvm"), stage("mm")
    k710 = stage("k710", masked)
    assert fresh() == ["fc_norm.weight, fc_norm.bias, head.weight, head.bias"]
    k710_mm = stage("k710_mm", multimodal)
    assert fresh() == ["head.weight, head.bias"]
    pair_ = stage("coordinate", k710, k710_mm)
    assert fresh() == ["none", "none"]
    before = {part: load_objective(str(path))[0].model for part, path in (("masked", k710), ("multimodal", k710_mm))}
    after = load_objective(str(pair_))[0].model
    for part, model in before.items():
        for name, tensor in model.encoder.blocks.state_dict().items():
            assert torch.equal(getattr(after, part).encoder.blocks.state_dict()[name], tensor), name
    assert after.cross_models[0].gate1.item() != 0

    for kind, file in (("safetensors", "model.safetensors"), ("official", "checkpoint.pth")):
        export(str(multimodal), kind, str(tmp_path / kind))
        objective = load_objective(str(multimodal))[0]
        fresh = build(resolved(capsys, METHODS["internvideo"])["model"])
        report = models.load_weights(fresh, tmp_path / kind / file)
        assert not report.unused and all(name.startswith("normalize.") for name in report.missing)
        assert all(torch.equal(t, objective.state_dict()[n]) for n, t in fresh.state_dict().items())
