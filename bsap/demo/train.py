"""Train the demo's CLIP from scratch: ``python -m bsap.demo.train``, or ``make demo-model``.

The recipe is a number of steps and a seed, never a time limit, so that a slow machine gives the same model.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import lightning as L
import open_clip
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback
from safetensors.torch import save
from torch import Tensor

from bsap.demo.pairs import Check, PairsDataModule
from bsap.demo.vocabulary import MODEL_FOLDER

SIDE, CONTEXT = 64, 24
CONFIG: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": 128,
        "vision_cfg": {"image_size": SIDE, "layers": 4, "width": 128, "head_width": 32, "patch_size": 8},
        "text_cfg": {"context_length": CONTEXT, "vocab_size": 49408, "width": 96, "heads": 3, "layers": 2},
    },
    "preprocess_cfg": {
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "interpolation": "bicubic",
        "resize_mode": "squash",
    },
}
STEPS, SEED = 800, 0


class ContrastiveModule(L.LightningModule):
    """CLIP's own training: a symmetric cross-entropy between pictures and captions.

    Args:
        config: an open_clip configuration, see :data:`CONFIG`.
        lr: peak learning rate, reached after ``warmup`` steps and followed by a cosine to 0.
        warmup: steps.
        weight_decay: of matrices; biases, gains and the logit scale have none.
    """

    mean: Tensor
    std: Tensor
    seen: Tensor

    def __init__(
        self, config: dict[str, Any] | None = None, *, lr: float = 1e-3, warmup: int = 100, weight_decay: float = 0.1
    ) -> None:
        super().__init__()
        self.config = CONFIG if config is None else config
        model, preprocess = self.config["model_cfg"], self.config["preprocess_cfg"]
        self.model = open_clip.CLIP(**model)
        self.tokenizer = open_clip.SimpleTokenizer(context_length=model["text_cfg"]["context_length"])
        self.lr, self.warmup, self.weight_decay = lr, warmup, weight_decay
        for name in ("mean", "std"):
            self.register_buffer(name, 255 * torch.tensor(preprocess[name])[:, None, None], persistent=False)
        self.register_buffer("seen", torch.zeros(model["text_cfg"]["vocab_size"], dtype=torch.bool))

    def embed_pictures(self, pictures: Tensor) -> Tensor:
        """Unit vectors (N, D) of uint8 pictures (N, 3, side, side)."""
        features: Tensor = self.model.encode_image((pictures - self.mean) / self.std, normalize=True)
        return features.float()

    def embed_texts(self, texts: list[str]) -> Tensor:
        """Unit vectors (N, D) of texts."""
        tokens = self.tokenizer(texts).to(self.device)
        if self.training:
            self.seen[tokens] = True
        features: Tensor = self.model.encode_text(tokens, normalize=True)
        return features.float()

    def training_step(self, batch: tuple[Tensor, list[str]], batch_idx: int) -> Tensor:
        """The contrastive loss of one batch."""
        pictures, texts = batch
        scale = self.model.logit_scale.exp()
        logits = scale * self.embed_pictures(pictures) @ self.embed_texts(texts).T
        own = torch.arange(len(texts), device=logits.device)
        loss = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
        self.log_dict({"loss": loss, "scale": scale}, prog_bar=True, batch_size=len(texts))
        return loss

    def validation_step(self, batch: Check, batch_idx: int) -> None:
        """How often the nearest ground-truth region is the referent."""
        chosen = (self.embed_texts(batch.texts) @ self.embed_pictures(batch.regions).T).argmax(1)
        right = (chosen == batch.targets).float().mean()
        self.log("accuracy", right, prog_bar=True, batch_size=len(batch.texts))

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up and cosine, counted in steps."""
        parameters = list(self.model.parameters())
        groups: list[dict[str, Any]] = [
            {"params": [p for p in parameters if p.ndim >= 2]},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.lr, betas=(0.9, 0.98), weight_decay=self.weight_decay, fused=True)
        steps = max(int(self.trainer.estimated_stepping_batches), self.warmup + 1)

        def factor(step: int) -> float:
            if step < self.warmup:
                return (step + 1) / self.warmup
            return 0.5 * (1 + math.cos(math.pi * (step - self.warmup) / (steps - self.warmup)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class ReportLines(Callback):
    """Prints a line every few steps: in a log file a progress bar would be a flood of lines."""

    def __init__(self, every: int = 50) -> None:
        self.every = every

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Print step, loss and logit scale."""
        if trainer.global_step % self.every == 0:
            values = {name: f"{float(value):.3f}" for name, value in trainer.callback_metrics.items()}
            print(f"step {trainer.global_step} of {trainer.max_steps}: {values}", flush=True)


def export(module: ContrastiveModule, folder: Path) -> None:
    """Write a model as an open_clip ``local-dir:`` folder.

    Weights are stored in half precision. Rows of tokens that training never saw are zero: they carry nothing, and
    zeros compress to nothing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().cpu().clone() for name, value in module.model.state_dict().items()}
    state["token_embedding.weight"][~module.seen.cpu()] = 0
    weights = save({name: value.half().contiguous() for name, value in state.items()})
    (folder / "open_clip_model.safetensors").write_bytes(weights)
    (folder / "open_clip_config.json").write_text(json.dumps(module.config, indent=2) + "\n")


def train(
    folder: Path,
    *,
    steps: int = STEPS,
    seed: int = SEED,
    warmup: int = 100,
    trainer: dict[str, Any] | None = None,
    **data: int,
) -> float:
    """Train and write a model.

    Args:
        folder: where the ``local-dir:`` model goes.
        steps: training steps.
        seed: of weights, scenes, crops and captions.
        warmup: steps of warm-up.
        trainer: further arguments of the Trainer.
        **data: further arguments of :class:`~bsap.demo.pairs.PairsDataModule`.

    Returns:
        Share of right choices among ground-truth regions on scenes kept for checking.
    """
    L.seed_everything(seed)
    module, pairs = ContrastiveModule(warmup=warmup), PairsDataModule(steps=steps, side=SIDE, seed=seed, **data)
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "max_steps": steps,
        "gradient_clip_val": 1.0,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "callbacks": [ReportLines()],
    }
    fitter = L.Trainer(**{**settings, **(trainer or {})})
    fitter.fit(module, datamodule=pairs)
    export(module, folder)
    return float(fitter.callback_metrics["accuracy"])


def main() -> None:
    """Train with the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=MODEL_FOLDER, help="where the model goes (%(default)s)")
    parser.add_argument("--steps", type=int, default=STEPS, help="training steps (%(default)s)")
    parser.add_argument("--seed", type=int, default=SEED, help="of weights, scenes and captions (%(default)s)")
    parser.add_argument("--precision", default="32-true", help="the Trainer's precision (%(default)s)")
    options = parser.parse_args()
    # One thread: another core draws meanwhile, and the sums do not depend on the number of cores.
    torch.set_num_threads(1)
    accuracy = train(options.folder, steps=options.steps, seed=options.seed, trainer={"precision": options.precision})
    print(f"right choices among ground-truth regions: {100 * accuracy:.1f} %")


if __name__ == "__main__":
    main()
