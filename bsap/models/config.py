"""The settings of an encoder: its model and its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from bsap.errors import BSAPError, ConfigError, check_names, check_number

PREFIXES = ("local-dir:", "hf-hub:", "hf:")
"""What a model's name may start with that is not an architecture of open_clip."""

COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
"""Modes of torch.compile."""

MODES = ("itc", "itm")
"""Ways to run BLIP: comparing features, or scoring pairs."""

_PREPROCESS = ("mean", "std", "interpolation")
_SETTINGS: tuple[tuple[str, Any, str], ...] = (
    ("name", str, "text"),
    ("pretrained", str | None, "a published tag or the path of a file, as text"),
    ("random_init", bool, "true or false"),
    ("quickgelu", bool | None, "true or false"),
    ("preprocess", Mapping | None, f"a mapping of {', '.join(_PREPROCESS)}"),
    ("label", str | None, "text"),
    ("mode", str | None, "itc or itm"),
    ("tau", float | int | None, "a number"),
    ("channels_last", bool, "true or false"),
    ("compile", bool | str, f"true, false, or one of {', '.join(COMPILE_MODES)}"),
)
"""The type of each setting of :class:`EncoderConfig`, and its name in errors: no parser checks calls from Python."""


@dataclass(frozen=True)
class EncoderConfig:
    """Which model to use, and with which weights.

    Args:
        name: an open_clip architecture (``ViT-B-32-quickgelu``), ``hf-hub:ORGANISATION/REPOSITORY``,
            ``local-dir:FOLDER`` with ``open_clip_config.json`` and weights, a model of `transformers`
            (``hf:ORGANISATION/REPOSITORY`` or ``hf:/FOLDER``), or ``demo``, the model in this package.
        pretrained: a published tag (``openai``) or a weight file, for architectures only.
        random_init: seeded random weights, for benchmarks.
        quickgelu: whether a weight file was trained with QuickGELU; needed only if the file does not tell.
        preprocess: ``mean`` and ``std`` (of red, green, blue, in 0..1) or ``interpolation`` (``bicubic`` or
            ``bilinear``) instead of the model's own.
        label: name in results instead of one made of model and weights.
        mode: for BLIP only: ``itc`` compares features, ``itm`` scores each pair of region and text by cross-attention,
            which is much slower.
        tau: the factor that cosines are multiplied by, only for models without a learned temperature, such as BLIP's
            ``itc``.
        channels_last: use the memory layout that makes convolutional towers faster on GPUs.
        compile: compile the image tower, True or a mode of torch.compile: ``reduce-overhead`` records CUDA graphs.

    Raises:
        ConfigError: a setting of another type, an unknown key or a value out of range in ``preprocess``, an unknown
            mode.
    """

    name: str
    pretrained: str | None = None
    random_init: bool = False
    quickgelu: bool | None = None
    preprocess: dict[str, Any] | None = None
    label: str | None = None
    mode: str | None = None
    tau: float | None = None
    channels_last: bool = False
    compile: bool | str = False

    def __post_init__(self) -> None:
        for name, kind, allowed in _SETTINGS:
            value = getattr(self, name)
            if not isinstance(value, kind):
                raise ConfigError(f"Model {self.name!r}: `{name}` must be {allowed}, but is {value!r}.")
        check_names("key of `preprocess`", self.preprocess or (), _PREPROCESS)
        check_preprocess(self.preprocess or {}, f"`preprocess` of model {self.name!r}", ConfigError)
        if self.mode is not None:
            check_names("mode of a model", [self.mode], MODES)
        if self.tau is not None:
            check_number(f"tau of model {self.name!r}", self.tau, above=True)
        if isinstance(self.compile, str):
            check_names("mode of `compile`", [self.compile], COMPILE_MODES)

    @classmethod
    def of(cls, value: EncoderConfig | Mapping[str, Any] | str) -> EncoderConfig:
        """A configuration from itself, a mapping of its fields, or a text: ``NAME`` or ``NAME:PRETRAINED``.

        Example:
            >>> EncoderConfig.of("ViT-B-32-quickgelu:openai").name
            'ViT-B-32-quickgelu'
            >>> EncoderConfig.of({"name": "ViT-B-32-quickgelu", "pretrained": "openai"}).pretrained
            'openai'
        """
        if isinstance(value, EncoderConfig):
            return value
        if isinstance(value, str):
            name, sign, pretrained = value.partition(":")
            return cls(name, pretrained) if sign and not value.startswith(PREFIXES) else cls(value)
        if not isinstance(value, Mapping):
            raise ConfigError(f"A model must be a name, or a mapping with `name` and other keys, but got {value!r}.")
        check_names("key of a model", value, [f.name for f in fields(cls)])
        if "name" not in value:
            raise ConfigError(f"A model needs a `name`, but got {dict(value)}.")
        return cls(**value)


@dataclass(frozen=True)
class Located:
    """What a configuration resolves to.

    Attributes:
        model: what open_clip builds: an architecture's name or ``local-dir:FOLDER``.
        label: short name of model and weights.
        architecture: the model's own configuration (``embed_dim``, ``vision_cfg``, ``text_cfg``, ...).
        quickgelu: whether the activation is QuickGELU.
        file: the weights, None for random initialisation.
        sha256: of the file, "" without one.
        preprocess: ``mean``, ``std`` and ``interpolation`` that replace the architecture's own.
        tokenizer: folder or hub name of a Hugging Face tokenizer, None for CLIP's own.
        paired: whether file and architecture are published as one.
        openai: whether the file is one of OpenAI's, byte for byte: only these are read as TorchScript archives.
    """

    model: str
    label: str
    architecture: Mapping[str, Any]
    quickgelu: bool
    file: Path | None = None
    sha256: str = ""
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: str | None = None
    paired: bool = False
    openai: bool = False


def check_preprocess(preprocess: Mapping[str, Any], where: str, error: type[BSAPError]) -> None:
    """Raise ``error`` unless pixel statistics and interpolation can be what a model was trained with.

    Statistics in 0..255, which other libraries use, would silently give other numbers.

    Args:
        preprocess: any of ``mean``, ``std`` and ``interpolation``.
        where: where they were given, for the message.
        error: the type of error.

    Example:
        >>> check_preprocess({"mean": [123, 117, 104]}, "`preprocess`", ConfigError)
        Traceback (most recent call last):
        ...
        bsap.errors.ConfigError: `mean` in `preprocess` must be three numbers from 0 to 1, but is [123, 117, 104].
    """
    for key, allowed in (("mean", "from 0 to 1"), ("std", "above 0 and up to 1")):
        value = preprocess.get(key, (1, 1, 1))
        three = isinstance(value, list | tuple) and len(value) == 3
        if not three or not all(type(x) in (int, float) and 0 <= x <= 1 and (x or key != "std") for x in value):
            raise error(f"`{key}` in {where} must be three numbers {allowed}, but is {value!r}.")
    if (value := preprocess.get("interpolation", "bicubic")) not in ("bicubic", "bilinear"):
        raise error(f"`interpolation` in {where} must be bicubic or bilinear, but is {value!r}.")
