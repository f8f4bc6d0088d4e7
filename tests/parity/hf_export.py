"""VideoMAE in transformers' form: names and tensors of the export, and the outputs of transformers with them."""

import torch
from torch import Tensor
from torch.testing import assert_close

from models.convert import videomae as names
from models.convert.rules import to_ours, to_theirs
from tests.parity import checks
from tests.parity.case import ACTIVATION, EXACT, LOSS, Case
from tests.parity.videomae import STORED, classifier, indices, videomae
from tests.parity.weights import load_whole

NOT_NEEDED = {
    **STORED,
    "max_abs_diff_*": "measured between the official code and transformers",
    "save_pretrained_key_style": "a description; `v4_keys` has the names",
    "v?_style_file_loads_bias": "measured on transformers",
    "v5_keys": "the names of the tensors `hf/`, which are compared",
}
AGREE = {"atol": 1e-5, "rtol": 0}


@checks("hf_export_pretrain", not_needed=NOT_NEEDED)
def export_pretrain(case: Case) -> None:
    from transformers import VideoMAEConfig, VideoMAEForPreTraining

    model = videomae(case.facts["config"], case.part("model"))
    video, hidden = case["input/video_b_c_t_h_w"], case["input/bool_masked_pos"]
    keep, masked = indices(~hidden), indices(hidden)
    with torch.no_grad():
        pred = model.decoder(model.encoder(video, keep), keep, masked)
        case.close("output/official_pred", pred, ACTIVATION)
        theirs = VideoMAEForPreTraining(VideoMAEConfig(**case.facts["hf_config"].plain())).eval()
        state = check_state(case, model)
        case.fact(case.facts, "v4_keys", sorted(state))
        into_transformers(theirs, state)
        output = theirs(video.transpose(1, 2), bool_masked_pos=hidden)
        assert_close(output.logits, pred, **AGREE)
        case.close("output/hf_loss", output.loss, LOSS)
        case.close("output/hf_loss", lambda: model.reconstruction_loss(video, keep, masked), LOSS)
    back, _ = to_ours(names.TRANSFORMERS, state)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in back.items())


@checks("hf_export_classifier", not_needed={**NOT_NEEDED, "config.dec_*": "a classifier has no decoder"})
def export_classifier(case: Case) -> None:
    from transformers import VideoMAEConfig, VideoMAEForVideoClassification

    config = case.facts["config"]
    model = load_whole(classifier(config, config["classes"], mean=True), case.part("model"))
    video = case["input/video_b_c_t_h_w"]
    with torch.no_grad():
        logits = model(video)
        case.close("output/official_logits", logits, ACTIVATION)
        hf_config = VideoMAEConfig(**case.facts["hf_config"].plain(), num_labels=config["classes"])
        theirs = VideoMAEForVideoClassification(hf_config).eval()
        into_transformers(theirs, check_state(case, model))
        assert_close(theirs(video.transpose(1, 2)).logits, logits, **AGREE)


def check_state(case: Case, model: torch.nn.Module) -> dict[str, Tensor]:
    """Our weights under transformers' names; those of the case, in either spelling, are equal to them."""
    state, unknown = to_theirs(names.TRANSFORMERS, model.state_dict())
    assert not unknown
    for name in case.names("hf"):
        case.close(name, state[names.on_disk_name(name.removeprefix("hf/"))], EXACT)
    return state


def into_transformers(model: torch.nn.Module, state: dict[str, Tensor]) -> None:
    """Load names as on disk into a live model of transformers, which spells two of them otherwise; none may be left."""
    live = {names.on_disk_name(name): name for name in model.state_dict()}
    fixed = {name for name in live if "position_embeddings" in name}
    assert live.keys() - fixed == state.keys()
    model.load_state_dict({live[name]: tensor for name, tensor in state.items()}, strict=False)
