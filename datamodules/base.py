"""The contract between data and everything that reads it: the module, the run folder and the learning of prompts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from bsap.datamodules.loader import scene_loader, sensible_workers, training_loader, validation_loader
from bsap.datamodules.picture_files import check_sizes
from bsap.datamodules.sampler import SceneSampler
from bsap.datamodules.scene import Scene, SplitSummary
from bsap.errors import ConfigError


class SceneDataModule(LightningDataModule):
    """Scenes for ``trainer.test`` and ``trainer.predict``, and for learning prompts with ``trainer.fit``.

    A subclass sets :attr:`scenes`, :attr:`texts` and :attr:`summary` in ``setup``. Sharing the scenes among processes,
    decoding, resuming and leaving out pictures whose features are stored are done here.

    Args:
        batch_size: scenes per batch and process.
        num_workers: processes that decode pictures; None chooses a number from the available cores.

    Attributes:
        scenes: the scenes to evaluate, each picture once; after ``setup``.
        texts: every expression of the unfiltered split, from which the computed banks are drawn; after ``setup``.
        summary: what was selected; see :meth:`~bsap.datamodules.scene.SplitSummary.of`; after ``setup``.
        assigned: this process's share of the scenes that are still to be evaluated; after ``test_dataloader``.
        train_scenes: scenes to learn prompts from; after ``setup("fit")``, where there are any.
        val_scenes: scenes that choose the best epoch; after ``setup("fit")``, where there are any.

    Raises:
        ConfigError: a batch size below 1 or a negative number of workers.
    """

    scenes: Sequence[Scene]
    texts: Sequence[str]
    summary: SplitSummary

    def __init__(self, *, batch_size: int = 8, num_workers: int | None = None) -> None:
        super().__init__()
        if batch_size < 1 or (num_workers is not None and num_workers < 0):
            raise ConfigError(
                f"`batch_size` must be at least 1 and `num_workers` at least 0, but got {batch_size} and {num_workers}."
            )
        self.batch_size, self.num_workers = batch_size, num_workers
        self.scenes, self.texts = (), ()
        self.assigned: Sequence[Scene] = ()
        self.summary = SplitSummary.of(())
        self.train_scenes: Sequence[Scene] = ()
        self.val_scenes: Sequence[Scene] = ()
        self._skipped: frozenset[str] = frozenset()
        self._stored: Callable[[Scene], bool] | None = None

    @property
    def expression_ids(self) -> list[str]:
        """The ids of all selected expressions, in annotation order."""
        found = sorted((e.order, e.id) for scene in self.scenes for e in scene.expressions)
        return [expression_id for _, expression_id in found]

    @property
    def settings(self) -> dict[str, Any]:
        """What ``save_hyperparameters`` recorded: part of the identity of a run."""
        # LightningCLI adds a private key of its own.
        return {key: value for key, value in self.hparams.items() if not key.startswith("_")}

    def load_split(self, split: str, *, unfiltered: bool = False) -> Sequence[Scene]:
        """The scenes of any split, by the same settings; changes nothing here.

        Args:
            split: its name.
            unfiltered: leave the filters out that choose expressions, so that every picture is there.

        Raises:
            ConfigError: this data module knows no other split. A subclass overrides this method.
        """
        raise ConfigError(
            f"{type(self).__name__} has no split {split!r} to draw a region bank from. Use RefCOCODataModule, or write "
            "`load_split` in your data module."
        )

    def skip(self, expression_ids: Collection[str]) -> None:
        """Leave scenes out of the loader whose expressions are all among these: an earlier attempt evaluated them.

        Args:
            expression_ids: replaces those of an earlier call; empty skips nothing.
        """
        self._skipped = frozenset(expression_ids)

    def leave_unopened(self, stored: Callable[[Scene], bool] | None) -> None:
        """Do not open the pictures of some scenes, because their features are stored.

        Args:
            stored: whether a scene may stay unopened; asked only about this process's share. None opens
                all pictures.
        """
        self._stored = stored

    def train_dataloader(self) -> DataLoader[Any]:
        """Lists of :attr:`train_scenes` without their pictures: shuffled, and as many on every process."""
        return training_loader(self.train_scenes, batch_size=self.batch_size)

    def val_dataloader(self) -> DataLoader[Any]:
        """Lists of this process's share of :attr:`val_scenes`, without their pictures."""
        weights = [len(scene.proposals) for scene in self.val_scenes]
        return validation_loader(self.val_scenes, weights, batch_size=self.batch_size)

    def test_dataloader(self) -> DataLoader[tuple[Scene, Tensor]]:
        """Batches of this process's share of the scenes that :meth:`skip` has not left out."""
        scenes = [s for s in self.scenes if not all(e.id in self._skipped for e in s.expressions)]
        sampler = SceneSampler([len(scene.proposals) for scene in scenes])
        unopened = [] if self._stored is None else [index for index in sampler if self._stored(scenes[index])]
        opened = set(sampler) - set(unopened)
        self.assigned = [scenes[index] for index in sampler]
        check_sizes([scenes[index] for index in sorted(opened)])
        workers = self.num_workers
        if workers is None:
            processes = self.trainer.num_devices if self.trainer is not None else 1
            workers = sensible_workers((len(sampler) - len(unopened)) // self.batch_size, processes)
        return scene_loader(scenes, sampler, batch_size=self.batch_size, num_workers=workers, unopened=unopened)

    def predict_dataloader(self) -> DataLoader[tuple[Scene, Tensor]]:
        """As :meth:`test_dataloader`."""
        return self.test_dataloader()


def scene_data(trainer: Trainer) -> SceneDataModule:
    """The data module of a trainer.

    Raises:
        ConfigError: the trainer was given loaders, or a data module of another kind: nothing would know which
            expressions there are, so that a result could be neither checked nor continued.
    """
    data = trainer.datamodule  # type: ignore[attr-defined]
    if not isinstance(data, SceneDataModule):
        given = "loaders without a data module" if data is None else f"a {type(data).__name__}"
        raise ConfigError(
            f"Expected the Trainer's `datamodule` to be a bsap.SceneDataModule, but got {given}. Use "
            "RefCOCODataModule, or write a subclass of SceneDataModule as `bsap docs extending` shows."
        )
    return data
