"""Sentences about the drawn world: expressions for referents, as people write them, and captions for training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from bsap.demo.draw import Thing

NOUNS: Mapping[str, Sequence[str]] = {
    "person": ("person", "man", "guy"),
    "car": ("car", "automobile", "vehicle"),
    "bus": ("bus", "coach"),
    "boat": ("boat", "sailboat", "ship"),
    "ball": ("ball", "sports ball"),
    "cup": ("cup", "mug"),
    "bottle": ("bottle", "flask"),
    "chair": ("chair", "seat"),
    "umbrella": ("umbrella", "parasol"),
    "clock": ("clock", "watch"),
    "bird": ("bird", "birdie"),
    "kite": ("kite",),
    "house": ("house", "home", "building"),
    "lamp": ("lamp", "light"),
}
COLOURS: Mapping[str, Sequence[str]] = {
    "red": ("red", "crimson"),
    "orange": ("orange",),
    "yellow": ("yellow", "golden"),
    "green": ("green",),
    "blue": ("blue", "navy"),
    "purple": ("purple", "violet"),
    "pink": ("pink", "rose"),
    "brown": ("brown",),
    "black": ("black", "dark"),
    "white": ("white",),
}
PATTERNS: Mapping[str, Sequence[str]] = {
    "plain": ("plain", "solid"),
    "striped": ("striped", "stripy"),
    "dotted": ("dotted", "spotted"),
    "checkered": ("checkered", "plaid"),
}
ANYTHING = ("object", "thing")
TEMPLATES = (
    "a photo of {}",
    "{}",
    "a {}",
    "the {}",
    "a picture of {}",
    "a photo of a {}",
    "a photo of the {}",
    "one {}",
)

_SIDES: Mapping[str, Sequence[str]] = {
    "left": ("left {}", "{} on the left", "{} on left", "leftmost {}", "{} left"),
    "right": ("right {}", "{} on the right", "{} on right", "rightmost {}", "{} right"),
    "top": ("top {}", "{} at the top", "upper {}"),
    "bottom": ("bottom {}", "{} at the bottom", "lower {}"),
    "middle": ("middle {}", "{} in the middle", "center {}"),
}
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_SIZES: Mapping[str, Sequence[str]] = {"big": ("big", "large", "biggest"), "small": ("small", "little", "smallest")}


def _pick(options: Sequence[str], rng: np.random.Generator) -> str:
    """One of several words; the first is the usual one."""
    return options[0] if rng.random() < 0.55 else options[int(rng.integers(len(options)))]


def describe(
    thing: Thing, attributes: Sequence[str], rng: np.random.Generator, *, nouns: Sequence[str] | None = None
) -> str:
    """A noun phrase with some of a thing's attributes (``colour``, ``pattern``), in everyday order."""
    words = []
    if "pattern" in attributes:
        words.append(_pick(PATTERNS[thing.pattern], rng))
    if "colour" in attributes:
        words.append(_pick(COLOURS[thing.colour], rng))
    return " ".join([*words, _pick(nouns or NOUNS[thing.category], rng)])


def _same(thing: Thing, other: Thing, attributes: Sequence[str]) -> bool:
    return thing.category == other.category and all(getattr(thing, name) == getattr(other, name) for name in attributes)


def _centre(thing: Thing) -> tuple[float, float]:
    x0, y0, x1, y1 = thing.box
    return (x0 + x1) / 2, (y0 + y1) / 2


def _sides(thing: Thing, rivals: Sequence[Thing]) -> list[str]:
    """The places in which a thing stands clearly apart from its rivals."""
    (x, y), others = _centre(thing), [_centre(other) for other in rivals]
    apart = {
        "left": all(x < other - 20 for other, _ in others),
        "right": all(x > other + 20 for other, _ in others),
        "top": all(y < other - 30 for _, other in others),
        "bottom": all(y > other + 30 for _, other in others),
        "middle": len(others) == 2 and min(others)[0] < x - 20 and max(others)[0] > x + 20,
    }
    return [side for side, stands in apart.items() if stands]


def _placed(index: int, things: Sequence[Thing], attributes: Sequence[str], rng: np.random.Generator) -> str:
    """A phrase whose place or size tells a thing from others of the same description."""
    thing = things[index]
    phrase = describe(thing, attributes, rng)
    rivals = [other for at, other in enumerate(things) if at != index and _same(thing, other, attributes)]
    if rng.random() < 0.25:
        if all(thing.area > 1.7 * other.area for other in rivals):
            return f"{_pick(_SIZES['big'], rng)} {phrase}"
        if all(1.7 * thing.area < other.area for other in rivals):
            return f"{_pick(_SIZES['small'], rng)} {phrase}"
    sides = _sides(thing, rivals)
    if sides:
        return _pick(_SIDES[sides[int(rng.integers(len(sides)))]], rng).format(phrase)
    rank = sum(_centre(other)[0] < _centre(thing)[0] for other in rivals)
    return f"{_ORDINALS[rank]} {phrase} from the left"


def expressions(index: int, things: Sequence[Thing], rng: np.random.Generator) -> tuple[str, ...]:
    """Two or three different short expressions that mean one thing of a scene and no other.

    Most expressions describe what the thing looks like. Where it stands is added when looks do not tell it from the
    others, and sometimes when they do.

    Example:
        >>> from bsap.demo.draw import draw_scene
        >>> things = draw_scene(0, 1, 5).things
        >>> len(expressions(0, things, np.random.default_rng(0))) in (2, 3)
        True
    """
    thing = things[index]
    subsets: list[tuple[str, ...]] = [s for n in range(3) for s in combinations(("colour", "pattern"), n)]
    if thing.pattern == "plain":
        subsets = [attributes for attributes in subsets if "pattern" not in attributes]
    clear = [attributes for attributes in subsets if sum(_same(thing, other, attributes) for other in things) == 1]
    ambiguous = [attributes for attributes in subsets if attributes not in clear]
    wanted, found = int(rng.integers(2, 4)), dict[str, None]()
    for attempt in range(40):
        if len(found) == wanted:
            break
        by_place = not clear or (bool(ambiguous) and rng.random() < 0.2)
        if by_place:
            text = _placed(index, things, ambiguous[int(rng.integers(len(ambiguous)))], rng)
        else:
            # People mostly use the shortest description that is enough.
            chosen = 0 if rng.random() < 0.6 else int(rng.integers(len(clear)))
            text = describe(thing, clear[chosen], rng)
            if rng.random() < 0.15:
                text = f"the {text}"
        if attempt > 20 and rng.random() < 0.5:
            text = f"the {text}"
        found.setdefault(text)
    return tuple(found)


def set_expressions(things: Sequence[Thing], rng: np.random.Generator) -> list[tuple[str, tuple[int, ...]]]:
    """Short expressions that mean nothing in a scene, or several of its things, with the indices of what they mean.

    Half of those that mean nothing name a category that the scene does not have, half one that it has, in another
    colour. Those that mean several describe what two or more things look like, or join two descriptions by "and".

    Example:
        >>> from bsap.demo.draw import draw_scene
        >>> found = set_expressions(draw_scene(0, 1, 5).things, np.random.default_rng(0))
        >>> len(found), found[0], found[-1]
        (7, ('purple umbrella', ()), ('blue boat and black parasol', (8, 9)))
    """
    found: dict[str, tuple[int, ...]] = {}
    absent = [name for name in NOUNS if all(thing.category != name for thing in things)]
    for n in range(4):
        model = things[int(rng.integers(len(things)))]
        if n % 2 and absent:
            model = replace(model, category=absent[int(rng.integers(len(absent)))])
        lacking = [c for c in COLOURS if not any(_same(t, replace(model, colour=c), ("colour",)) for t in things)]
        if lacking:
            model = replace(model, colour=lacking[int(rng.integers(len(lacking)))])
            found.setdefault(describe(model, ("colour",), rng), ())
    alike = [
        (attributes, group)
        for attributes in ((), ("colour",))
        for at, thing in enumerate(things)
        if len(group := tuple(i for i, other in enumerate(things) if _same(thing, other, attributes))) > 1
        and group[0] == at
    ]
    for attributes, group in alike[:2]:
        found.setdefault(describe(things[group[0]], attributes, rng), group)
    clear = [i for i, thing in enumerate(things) if sum(_same(thing, other, ("colour",)) for other in things) == 1]
    if len(clear) > 1:
        pair = [clear[int(i)] for i in rng.permutation(len(clear))[:2]]
        phrases = [describe(things[i], ("colour",), rng) for i in pair]
        found.setdefault(" and ".join(phrases), tuple(sorted(pair)))
    return list(found.items())


def caption(thing: Thing, rng: np.random.Generator) -> str:
    """A training caption for a crop around one thing."""
    attributes = [name for name, share in (("colour", 0.75), ("pattern", 0.6)) if rng.random() < share]
    if thing.pattern == "plain" and rng.random() < 0.85:
        attributes = [name for name in attributes if name != "pattern"]
    phrase = describe(thing, attributes, rng)
    if attributes and rng.random() < 0.08:
        phrase = describe(thing, attributes, rng, nouns=ANYTHING)
    if rng.random() < 0.04:
        phrase = f"{_pick(_SIZES['big' if thing.whole > 2500 else 'small'], rng)} {phrase}"
    return TEMPLATES[int(rng.integers(len(TEMPLATES)))].format(phrase)


def scene_caption(things: Sequence[Thing], width: int, rng: np.random.Generator) -> str:
    """A training caption for a whole scene: one to three things, sometimes with the side they are on."""
    count = min(len(things), int(rng.integers(1, 4)))
    phrases = []
    for at in rng.permutation(len(things))[:count]:
        phrase, x = describe(things[at], ("colour",) if rng.random() < 0.7 else (), rng), _centre(things[at])[0]
        if rng.random() < 0.4 and not width / 3 < x < 2 * width / 3:
            phrase = _pick(_SIDES["left" if x < width / 2 else "right"], rng).format(phrase)
        phrases.append(phrase)
    return TEMPLATES[int(rng.integers(2))].format(" and ".join(phrases))
