"""Learned prompts: the auxiliary bank is trained, with pictures or with text alone."""

from bsap.learning.data import LearningDataModule
from bsap.learning.learner import FrozenTexts, Learner, PromptBank
from bsap.learning.module import PromptLearner
from bsap.learning.prompts import PromptConfig
from bsap.learning.texts import TextConfig

__all__ = [
    "FrozenTexts",
    "Learner",
    "LearningDataModule",
    "PromptBank",
    "PromptConfig",
    "PromptLearner",
    "TextConfig",
]
