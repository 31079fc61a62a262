"""Learned prompts: the bank of auxiliary prompts is trained, from region features or from text alone."""

from bsap.learning.context import PromptConfig
from bsap.learning.datamodule import LearningDataModule
from bsap.learning.learner import FrozenTexts, Learner, PromptBank
from bsap.learning.module import PromptLearner
from bsap.learning.pseudo_scenes import TextConfig

__all__ = [
    "FrozenTexts",
    "Learner",
    "LearningDataModule",
    "PromptBank",
    "PromptConfig",
    "PromptLearner",
    "TextConfig",
]
