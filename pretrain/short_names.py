"""Classes that recipes name by their short names: the parser knows those that are imported."""

from datamodules import (  # noqa: F401
    Actions,
    Annotated,
    CentrePatch,
    Files,
    Instructions,
    Listed,
    Mixture,
    Patch,
    RandAugment,
    RandomResizedCrop,
    Rendered,
    ShapeQuestions,
    Shards,
    Synthetic,
    VideoData,
)
from pretrain import objectives
from pretrain.engine.monitoring import Reconstructions  # noqa: F401
from pretrain.engine.strategies import FSDP2Strategy, ZeROStrategy  # noqa: F401
from pretrain.engine.validate_at_start import ValidateAtStart  # noqa: F401
from pretrain.export.interpolate import WiseFT  # noqa: F401
from pretrain.features.watch import Watch  # noqa: F401
from pretrain.generation.predict import GenerateFilms, Prompts  # noqa: F401
from pretrain.generation.samples import Samples  # noqa: F401
from pretrain.metrics import (  # noqa: F401
    CLIPSIM,
    KNN,
    Accuracy,
    FeatureDistance,
    MultipleChoice,
    MultiView,
    Retrieval,
    ZeroShot,
)
from pretrain.questions.ask import AnswerQuestions  # noqa: F401
from pretrain.questions.data import Questions  # noqa: F401
from pretrain.questions.sets import MVBench, QuestionList  # noqa: F401

METHODS = {name: kind for name, kind in vars(objectives).items() if isinstance(kind, type)}
