"""The sentences around queries and auxiliary prompts, and whether noun phrases join the queries."""

from __future__ import annotations

from dataclasses import dataclass

from bsap.errors import ConfigError


@dataclass(frozen=True)
class Templates:
    """The sentences that queries and auxiliary prompts are put into.

    Args:
        query: template of the expressions, with exactly one ``{}``.
        bank: template of the auxiliary prompts, with exactly one ``{}``.

    Raises:
        ConfigError: a template without exactly one ``{}``.

    Example:
        >>> Templates(bank="{}").query.format("the left dog")
        'a photo of the left dog'
    """

    query: str = "a photo of {}"
    bank: str = "a photo of {}"

    def __post_init__(self) -> None:
        for name, template in (("query", self.query), ("bank", self.bank)):
            rest = template.replace("{}", "", 1)
            if rest == template or "{" in rest or "}" in rest:
                raise ConfigError(f"Template `{name}` must hold exactly one {{}} and no other brace, got {template!r}.")


@dataclass(frozen=True)
class Phrases:
    """Queries ensembled with their noun phrases, as Global-Local CLIP does (see :mod:`bsap.prompts.phrases`).

    Args:
        weight: of the noun phrase; 0 leaves phrases out, 0.5 is published.
        parser: the spaCy pipeline for expressions whose data file gives no phrase, for example ``en_core_web_lg``.
        rejoin: whether sentences are written as ``parser``'s tokens joined by spaces, as the published code does:
            "thats" becomes "that s". By default they stay as the data file has them.

    Raises:
        ConfigError: a weight outside [0, 1], or ``rejoin`` without ``parser``.
    """

    weight: float = 0.0
    parser: str | None = None
    rejoin: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise ConfigError(f"`phrases.weight` must be in [0, 1], but got {self.weight}.")
        if self.rejoin and self.parser is None:
            raise ConfigError("`phrases.rejoin` needs `phrases.parser`, such as en_core_web_lg, for its tokens.")
