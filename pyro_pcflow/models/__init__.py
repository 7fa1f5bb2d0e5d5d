"""Models of many clouds, and pieces of Bayesian models: poses, completion, random sizes, weights with priors."""

from pyro_pcflow.models.auto_decoder import AutoDecoder
from pyro_pcflow.models.bayesian import BayesianWeights, scaled_normal, with_weights
from pyro_pcflow.models.completion import Completion, complete
from pyro_pcflow.models.latent_prior import latent_flow
from pyro_pcflow.models.pose import UniformTurn, sample_pose
from pyro_pcflow.models.presets import PRESETS, Preset, preset
from pyro_pcflow.models.random_size import sample_process
from pyro_pcflow.models.vae import PointCloudVAE

__all__ = [
    "PRESETS",
    "AutoDecoder",
    "BayesianWeights",
    "Completion",
    "PointCloudVAE",
    "Preset",
    "UniformTurn",
    "complete",
    "latent_flow",
    "preset",
    "sample_pose",
    "sample_process",
    "scaled_normal",
    "with_weights",
]
