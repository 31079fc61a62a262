"""Views by name and from configurations: what tells them apart, and what is refused."""

import json
import math
import sys
import types
from dataclasses import InitVar, dataclass

import pytest

from bsap.errors import BSAPError, ConfigError
from bsap.views import VIEWS, Blur, Crop, Dim, MaskedCrop, RedCircle, View, make_view


def test_names_and_keys_tell_views_apart():
    others = [
        Crop(margin=0.5),
        Blur(std=50),
        Dim(brightness=0.1),
        RedCircle(colour=(0, 0, 255)),
        RedCircle(thickness=0.1),
    ]
    views = [*VIEWS.values(), *others]
    assert len({view.name for view in views}) == len({view.key for view in views}) == len(views)
    assert [VIEWS[name].name for name in ("crop", "blur", "cpt", "masked_crop")] == [
        "crop",
        "blur",
        "cpt",
        "masked_crop",
    ]
    assert Crop(margin=0.2).name == "crop(margin=0.2)"
    assert Blur(std=50).name == Blur(std=50.0).name == "blur(std=50)"
    assert Blur(std=50).key == Blur(std=50.0).key


def test_a_key_makes_its_view_again():
    for view in [*VIEWS.values(), RedCircle(colour=(0, 0, 255))]:
        again = make_view(json.loads(view.key))
        assert again == view
        assert again.key == view.key


def test_every_view_is_described():
    for view in VIEWS.values():
        assert view.summary.endswith(".")
        assert view.source
        assert view.summary.count("\n") == 0
    assert VIEWS["crop_margin"].summary != VIEWS["crop"].summary


def test_only_cpt_brings_its_own_words():
    assert {name: view.template for name, view in VIEWS.items() if view.template} == {"cpt": "{} is in red color."}


def test_make_view():
    view = Blur(std=3)
    assert make_view(view) is view
    assert make_view("blur") == Blur()
    assert make_view("bsap.views.Crop") == Crop()
    assert make_view({"class_path": "Crop"}) == Crop()
    assert make_view({"class_path": "bsap.views.MaskedCrop", "init_args": {"margin": 1}}) == MaskedCrop(margin=1.0)
    assert make_view({"class_path": "RedCircle", "init_args": {"colour": [0, 0, 255]}}) == RedCircle(colour=(0, 0, 255))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("blurr", "Unknown view 'blurr'. Did you mean 'blur'"),
        ("nowhere.Blur", "View class 'nowhere.Blur' cannot be imported"),
        ("bsap.views.Blurr", "View class 'bsap.views.Blurr' cannot be imported"),
        ("pathlib.Path", "is not a subclass of bsap.views.View"),
        ({"class_path": "Blur", "init_args": {"sigma": 3}}, "Unknown argument of view Blur 'sigma'. Known: shape, std"),
        ({"class_path": "Blur", "args": {}}, "Unknown key of a view 'args'.*Known: class_path, init_args"),
        ({"init_args": {"std": 3}}, "A view is a name or `class_path` with `init_args`"),
        (3, "but got 3"),
        ("bsap.views.View", "with a `kind` of its own"),
        (
            {"class_path": "Blur", "init_args": {"std": -1}},
            "std of the view 'blur' must be a number of at least 0, but is -1",
        ),
        ({"class_path": "Blur", "init_args": {"std": "wide"}}, "but is 'wide'"),
        ({"class_path": "Blur", "init_args": {"std": math.nan}}, "but is nan"),
        ({"class_path": "Blur", "init_args": {"shape": "star"}}, "box or ellipse, but is 'star'"),
        ({"class_path": "Dim", "init_args": {"brightness": 2}}, "between 0 and 1"),
        ({"class_path": "CPT", "init_args": {"opacity": 2}}, "between 0 and 1"),
        ({"class_path": "RedBox", "init_args": {"colour": [0, 0, 256]}}, "three whole numbers from 0 to 255"),
        ({"class_path": "CPT", "init_args": {"colour": "red"}}, "three whole numbers from 0 to 255"),
        (
            {"class_path": "GlobalLocal", "init_args": {"v": 1.2}},
            "v of the view 'global_local' must be between 0",
        ),
        ({"class_path": "GlobalLocal", "init_args": {"block": 9.5}}, "whole number of at least 0, but is 9.5"),
        ({"class_path": "GlobalLocal", "init_args": {"background": "black"}}, "Unknown background .* 'black'.*mean"),
        ({"class_path": "GlobalLocal", "init_args": {"resampling": []}}, "Unknown resampling of the view"),
        ({"class_path": "GlobalLocal", "init_args": {"block": -1}}, "whole number of at least 0, but is -1"),
    ],
)
def test_bad_specifications_are_one_clear_error(spec, message):
    with pytest.raises(ConfigError, match=message):
        make_view(spec)
    assert issubclass(ConfigError, BSAPError)


class Shift(View):
    """A view whose key cannot know its parameter."""

    kind = "shift"

    def __init__(self, pixels=0):
        super().__init__()
        self.pixels = pixels


@dataclass(frozen=True)
class Passing(View):
    """Another: what is only passed to the initialisation is no field."""

    kind = "passing"

    pixels: InitVar[int] = 0


class Still(View):
    """A plain class without parameters has nothing to hide."""

    kind = "still"


def test_parameters_that_a_key_does_not_see_are_refused(monkeypatch):
    package = types.ModuleType("my_package")
    package.Shift, package.Passing, package.Still = Shift, Passing, Still
    monkeypatch.setitem(sys.modules, "my_package", package)
    message = r"not part of its name: pixels\. Make them fields.*@dataclass\(frozen=True\)"
    for spec in ("my_package.Shift", {"class_path": "my_package.Shift", "init_args": {"pixels": 120}}, Shift(120)):
        with pytest.raises(ConfigError, match=message):
            make_view(spec)
    with pytest.raises(ConfigError, match=message):
        make_view("my_package.Passing")
    assert make_view("my_package.Still").name == "still"
