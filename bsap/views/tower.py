"""The inside of a vision transformer, of open_clip or of transformers: blocks, grid, and a bias on the attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bsap.errors import ConfigError, ModelError
from bsap.views.crops import Crop
from bsap.views.packing import ImageEncoder


@dataclass(frozen=True, eq=False)
class Tower:
    """A vision transformer with a class token, whose first output becomes the feature of a picture.

    Attributes:
        blocks: the transformer blocks.
        grid: rows and columns of patch tokens, which follow the class token.
        heads: of each block's attention; 1 where one bias serves all heads.
        bias: the name of a block's argument that is added to its attention.
        run: from (N, 3, h, w) standardised pixels to (N, D) features, without normalisation. It is the tower's own
            forward: a compiled tower was compiled without the changes.
    """

    blocks: Sequence[nn.Module]
    grid: tuple[int, int]
    heads: int
    bias: str
    run: Callable[[Tensor], Tensor]

    @contextmanager
    def biased(self, first: int, bias: Tensor) -> Iterator[None]:
        """Within the context, a bias is added to the attention of the blocks from ``first`` on.

        Args:
            first: the first block, counted from 0.
            bias: (R, L, L) over queries and keys, L = 1 + rows * columns; one picture becomes R, or (1, L, L) for all.
        """
        added = bias[:, None] if self.heads == 1 else bias.repeat_interleave(self.heads, 0)

        def change(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            hidden = args[0]
            if len(bias) > 1 and len(hidden) == 1:
                hidden = hidden.expand(len(bias), -1, -1)
            own = added if len(bias) > 1 or self.heads == 1 else added.repeat(len(hidden), 1, 1)
            if len(args) > 1:  # where the second argument is given by its place, it is the one that the bias replaces
                return (hidden, own.to(hidden.dtype), *args[2:]), kwargs
            return (hidden,), {**kwargs, self.bias: own.to(hidden.dtype)}

        hooks = [block.register_forward_pre_hook(change, with_kwargs=True) for block in self.blocks[first:]]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @contextmanager
    def patches(self) -> Iterator[None]:
        """Within the context, :attr:`run` gives (N * rows * columns, D), the features of patches, picture by picture.

        Each patch token takes the class token's place behind the last block.
        """

        def each(module: nn.Module, args: Any, output: Any) -> Any:
            hidden = output[0] if isinstance(output, tuple) else output
            tokens = hidden[:, 1:].reshape(-1, 1, hidden.shape[-1])
            return (tokens, *output[1:]) if isinstance(output, tuple) else tokens

        hook = self.blocks[-1].register_forward_hook(each)
        try:
            yield
        finally:
            hook.remove()


def tower_of(encoder: ImageEncoder, view: str) -> Tower:
    """The inside of an encoder.

    Args:
        encoder: the model.
        view: the view that looks into it, for errors.

    Raises:
        ModelError: its tower is no vision transformer with a class token.
    """
    model: Any = encoder.model
    visual: Any = getattr(model, "visual", None)
    if is_standard(visual):
        blocks = visual.transformer.resblocks
        return Tower(list(blocks), tuple(visual.grid_size), blocks[0].attn.num_heads, "attn_mask", visual.forward)
    vision: Any = getattr(model, "vision_model", None)
    kind = type(vision).__name__
    if kind.startswith(("CLIPVision", "MetaClip2Vision")):
        side = vision.config.image_size // vision.config.patch_size

        def run(pixels: Tensor) -> Tensor:
            projected: Tensor = model.visual_projection(vision.forward(pixel_values=pixels).pooler_output)
            return projected

        return Tower(list(vision.encoder.layers), (side, side), 1, "attention_mask", run)
    found = kind if vision is not None else type(visual).__name__
    raise ModelError(
        f"The view {view!r} works inside a vision transformer with a class token, of open_clip (such as "
        f"ViT-B-32-quickgelu) or of transformers (CLIP or MetaCLIP 2), but model {encoder.label!r} has a {found}. Use "
        "one of these models, or a view that draws, such as crop or blur."
    )


def is_standard(visual: object) -> bool:
    """Whether an image tower is one of open_clip's own vision transformers that pool the class token."""
    from open_clip.transformer import ResidualAttentionBlock, VisionTransformer

    return (
        isinstance(visual, VisionTransformer)
        and visual.attn_pool is None
        and visual.pool_type == "tok"
        and not visual.output_tokens
        and isinstance(visual.transformer.resblocks[0], ResidualAttentionBlock)
    )


def check_block(encoder: ImageEncoder, tower: Tower, block: int, view: str) -> None:
    """Raise a ModelError unless the tower has this block."""
    if not 0 <= block < len(tower.blocks):
        raise ModelError(
            f"Model {encoder.label!r} has the blocks 0 to {len(tower.blocks) - 1}, but `block` of the view {view!r} is "
            f"{block}."
        )


def check_squash(view: str, resize: str) -> None:
    """Raise a ConfigError unless pictures are squashed: a view inside the encoder sees the whole picture."""
    if resize != "squash":
        raise ConfigError(
            f"The view {view!r} works inside the encoder and supports `resize: squash` only, not {resize!r}. Leave "
            "`model.resize` at squash, or choose views that draw, such as crop or blur."
        )


def whole_picture(encoder: ImageEncoder, picture: Tensor) -> Tensor:
    """A (3, H, W) uint8 picture squashed to the encoder's size and standardised: (1, 3, h, w) float32."""
    everything = torch.tensor([[0.0, 0.0, picture.shape[2], picture.shape[1]]], device=picture.device)
    options: dict[str, Any] = {"interpolation": encoder.interpolation, "fill": encoder.fill}
    return encoder.standardize(Crop().render(picture, everything, encoder.size, **options))
