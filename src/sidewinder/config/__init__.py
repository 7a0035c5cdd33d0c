"""The study's configuration: parsed once, strictly, into immutable models.

`load_study(path)` is the only way in. It raises ConfigError with key, value, what is allowed and the remedy.
"""

from sidewinder.config.load import load_study, write_schema
from sidewinder.config.model import ModelConfig
from sidewinder.config.study import Study
from sidewinder.config.training import Training

__all__ = ["ModelConfig", "Study", "Training", "load_study", "write_schema"]
