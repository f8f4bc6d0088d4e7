"""The rows of the study: each method with its recipe, and what it learns from."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """A row of the study.

    Args:
        title: name of the method in tables.
        recipe: of its training, `recipes/NAME.yaml`; None: a model that is not trained here.
        learns: what it learns from besides pixels.
        head: class of the classifier that fine-tunes its encoder.
        labels: whether it is trained with the labels of the task; then it has a run for each kind of label.
    """

    title: str
    recipe: str | None
    learns: str = ""
    head: str = "VideoClassifier"
    labels: bool = False


METHODS = {
    "frames": Method("EfficientNet-Lite0, frame by frame", None, "ImageNet's labels"),
    "videomae": Method("VideoMAE V2", "videomae_tiny"),
    "viclip": Method("ViCLIP", "viclip_tiny", "captions"),
    "umt": Method("UMT stage 1", "umt_tiny", "a teacher's features"),
    "umt2": Method("UMT stage 2", "umt2_tiny", "captions"),
    "vilp": Method("ViLP", "vilp_tiny", "captions"),
    "internvideo": Method("InternVideo, multimodal", "internvideo_mm_tiny", "captions", "UniFormerV2Classifier"),
    "supervised": Method("supervised", "finetune_tiny", "all labels", labels=True),
}
