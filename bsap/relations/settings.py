"""What a configuration says of relations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from bsap.errors import ConfigError, check_names
from bsap.prompts.sentences import ENGLISH


@dataclass(frozen=True)
class Relations:
    """Relations and superlatives join the scores of a sentence, as in ReCLIP's full method.

    Args:
        parser: the spaCy pipeline that parses sentences, an English one.
        between: whether "between A and B" is a relation, which it is not in ReCLIP's code.
        published: do what ReCLIP's code does and its paper does not say: a sentence with a word of place or size that
            leads to no relation is also scored by its noun phrase; a noun phrase is scored with what hangs on it by no
            known relation ("ear of the dog"); relations that contradict each other choose the first region; and no
            sentence has too many entities.
        entities: the most noun phrases of a sentence that are scored; a sentence with more is scored as a whole.

    Raises:
        ConfigError: a setting of another type, or no entity at all.
    """

    parser: str = ENGLISH
    between: bool = False
    published: bool = False
    entities: int = 9

    def __post_init__(self) -> None:
        for name, good, what in (
            ("parser", isinstance(self.parser, str) and self.parser, "the name of a spaCy pipeline"),
            ("between", isinstance(self.between, bool), "true or false"),
            ("published", isinstance(self.published, bool), "true or false"),
            ("entities", type(self.entities) is int and self.entities > 0, "a whole number, at least 1"),
        ):
            if not good:
                raise ConfigError(f"`relations.{name}` must be {what}, but got {getattr(self, name)!r}.")


def relation_settings(value: object, *, several: bool = False) -> Relations | None:
    """What ``relations`` of a configuration means: the settings, or None where no relation is looked for.

    Args:
        value: true, false, settings, or a mapping of them as ``config.yaml`` holds it.
        several: whether an answer may hold no region or several.

    Raises:
        ConfigError: anything else; or relations where answers may hold several regions.
    """
    if value and several:
        raise ConfigError(
            "`relations` multiply distributions over regions, for which no threshold of `answer` makes sense. Set "
            "`--model.relations false`, or let every answer be one region."
        )
    if isinstance(value, Mapping):
        check_names("setting of `relations`", value, [field.name for field in fields(Relations)])
        return Relations(**value)
    if isinstance(value, Relations):
        return value
    if not isinstance(value, bool):
        raise ConfigError(f"`relations` must be true, false or settings, but got {value!r}.")
    return Relations() if value else None
