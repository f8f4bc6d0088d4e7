"""Speed of a training step: each method against a peer implementation, from the same weights and inputs, in turns."""

from pretrain.studies.speed import lavie, umt, viclip, videomae, vilp, vit
from pretrain.studies.speed.race import Method, Report, race
from pretrain.studies.speed.step import Setting

METHODS: dict[str, Method] = {
    "videomae": videomae.METHOD,
    "umt": umt.METHOD,
    "viclip": viclip.METHOD,
    "vilp": vilp.METHOD,
    "vit": vit.METHOD,
    "lavie": lavie.METHOD,
    "lavie_sampling": lavie.SAMPLING,
}

__all__ = ["METHODS", "Method", "Report", "Setting", "race"]
