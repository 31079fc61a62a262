"""The inside of a vision transformer, of open_clip or of transformers: blocks, grid, and a bias on the attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from bsap.datamodules.scene import RLE
from bsap.errors import ConfigError, ModelError
from bsap.views.crops import Crop
from bsap.views.packing import ImageEncoder, default_pack, packs
from bsap.views.view import View


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

    def before(self, first: int, change: Callable[..., Any]) -> ExitStack:
        """Within the context, ``change`` makes the arguments (args, kwargs) of the blocks from ``first`` on."""
        hooks = ExitStack()
        for block in self.blocks[first:]:
            hooks.enter_context(block.register_forward_pre_hook(change, with_kwargs=True))
        return hooks

    def biased(self, first: int, bias: Tensor) -> ExitStack:
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

        return self.before(first, change)

    def patches(self) -> RemovableHandle:
        """Within the context, :attr:`run` gives (N * rows * columns, D), the features of patches, picture by picture.

        Each patch token takes the class token's place behind the last block.
        """

        def each(module: nn.Module, args: Any, output: Any) -> Any:
            hidden = output[0] if isinstance(output, tuple) else output
            tokens = hidden[:, 1:].reshape(-1, 1, hidden.shape[-1])
            return (tokens, *output[1:]) if isinstance(output, tuple) else tokens

        return self.blocks[-1].register_forward_hook(each)


def tower_of(encoder: ImageEncoder, view: str) -> Tower:
    """The inside of an encoder; ``view`` is what looks into it, for errors.

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


@dataclass(frozen=True, kw_only=True)
class InsideView(View):
    """A view inside the encoder: it sees the whole picture, and what a region changes is up to :meth:`encode`."""

    def tower(self, encoder: ImageEncoder) -> Tower:
        """The inside of an encoder.

        Raises:
            ModelError: the view cannot work in there.
        """
        return tower_of(encoder, self.name)

    def check(self, encoder: ImageEncoder, *, resize: str) -> None:
        """Refuse another resize than ``squash``, and encoders in which the view cannot work."""
        if resize != "squash":
            raise ConfigError(
                f"The view {self.name!r} works inside the encoder and supports `resize: squash` only, not {resize!r}. "
                "Leave `model.resize` at squash, or choose views that draw, such as crop or blur."
            )
        self.tower(encoder)

    @torch.no_grad()
    def features(
        self,
        encoder: ImageEncoder,
        pictures: Sequence[Tensor],
        boxes: Sequence[Tensor],
        masks: Sequence[Sequence[RLE] | None],
        *,
        resize: str = "squash",
        pack: int | None = None,
    ) -> Tensor:
        """Encode the regions of several scenes, a pack of one scene at a time."""
        tower, found = self.tower(encoder), [torch.zeros(0, encoder.dim, device=encoder.device)]
        for picture, regions, known in zip(pictures, boxes, masks, strict=True):
            for [(_, start, stop)] in packs([len(regions)], pack or default_pack(encoder.device)):
                some = None if known is None else known[start:stop]
                found.append(self.encode(encoder, tower, picture, regions[start:stop], some))
        return torch.cat(found)

    def encode(
        self, encoder: ImageEncoder, tower: Tower, picture: Tensor, boxes: Tensor, masks: Sequence[RLE] | None
    ) -> Tensor:
        """(R, D) unit vectors of at least one region of a picture, for views that do not override :meth:`features`."""
        raise NotImplementedError


class FromBlock(InsideView):
    """A view that changes what the blocks of the encoder get, from one block on."""

    block: int
    """The first changed block, from 0; a field of the subclass."""

    def __post_init__(self) -> None:
        """Check the parameters; only :meth:`check` knows how many blocks the encoder has."""
        super().__post_init__()
        if type(self.block) is not int or self.block < 0:
            raise ConfigError(
                f"block of the view {self.kind!r} must be a whole number of at least 0, but is {self.block!r}."
            )

    def tower(self, encoder: ImageEncoder) -> Tower:
        """The inside of an encoder, which has the block."""
        tower = super().tower(encoder)
        if self.block >= len(tower.blocks):
            raise ModelError(
                f"Model {encoder.label!r} has the blocks 0 to {len(tower.blocks) - 1}, but `block` of the view "
                f"{self.kind!r} is {self.block}."
            )
        return tower


def whole_picture(encoder: ImageEncoder, picture: Tensor) -> Tensor:
    """A (3, H, W) uint8 picture squashed to the encoder's size and standardised: (1, 3, h, w) float32."""
    everything = torch.tensor([[0.0, 0.0, picture.shape[2], picture.shape[1]]], device=picture.device)
    options: dict[str, Any] = {"interpolation": encoder.interpolation, "fill": encoder.fill}
    return encoder.standardize(Crop().render(picture, everything, encoder.size, **options))
