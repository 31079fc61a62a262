"""Whatever a configuration says in the place of a view, scorer or transform, the answer is one or one clear error."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsap.errors import ConfigError
from bsap.features.transforms import TRANSFORMS, Transform, make_transform
from bsap.scoring import SCORERS, Scorer, make_scorer
from bsap.views import VIEWS, View, make_view

KINDS: dict[str, tuple[Callable[[Any], Any], type, dict[str, Any]]] = {
    "view": (make_view, View, VIEWS),  # type: ignore[dict-item]
    "scorer": (make_scorer, Scorer, SCORERS),  # type: ignore[dict-item]
    "transform": (make_transform, Transform, TRANSFORMS),  # type: ignore[dict-item]
}
SCALARS = st.none() | st.booleans() | st.integers() | st.integers(10**300, 10**400) | st.floats() | st.text(max_size=8)
YAML: st.SearchStrategy[Any] = st.recursive(
    SCALARS, lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=8), x, max_size=3), max_leaves=6
)


@st.composite
def specifications(draw: st.DrawFn, named: dict[str, Any]) -> Any:
    """Anything that YAML can hold, most often close to something right."""
    part = draw(st.sampled_from(list(named.values())))
    fields = [field.name for field in dataclasses.fields(part)]
    path = draw(st.sampled_from([type(part).__name__, f"{type(part).__module__}.{type(part).__name__}"]) | YAML)
    names = st.sampled_from(fields) | st.text(max_size=8) if fields else st.text(max_size=8)
    arguments = draw(st.dictionaries(names, YAML, max_size=3) | YAML)
    spec = {"class_path": path, "init_args": arguments}
    return draw(st.sampled_from([spec, {"class_path": path}, path, arguments, {**spec, "more": 1}]))


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_anything_is_a_part_or_one_clear_error(kind: str, data: st.DataObject) -> None:
    make, base, named = KINDS[kind]
    spec = data.draw(specifications(named))
    with contextlib.suppress(ConfigError):
        assert isinstance(make(spec), base)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "path", ["..Blur", "os.", ".", "bsap..Blur", "bsap.nothing.Blur", "pathlib.Path", "bsap.views.View"]
)
def test_paths_of_no_class_of_the_kind(kind: str, path: str) -> None:
    with pytest.raises(ConfigError, match=rf"(?i){kind} class .* cannot be imported|is not a subclass of bsap"):
        KINDS[kind][0](path)


@pytest.mark.parametrize("kind", KINDS)
def test_every_class_has_three_spellings(kind: str) -> None:
    make, _, named = KINDS[kind]
    for name, part in named.items():
        assert make(name) == make(part) == part
        changed = {f.name: getattr(part, f.name) for f in dataclasses.fields(part) if f.init}
        for path in (type(part).__name__, f"{type(part).__module__}.{type(part).__name__}"):
            assert make({"class_path": path, "init_args": changed}) == part
        assert make(f"{type(part).__module__}.{type(part).__name__}") == type(part)()
