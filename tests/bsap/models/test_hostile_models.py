"""Models from strangers: nothing in their files runs, writes, connects or asks; each is refused in a sentence."""

from __future__ import annotations

import builtins
import contextlib
import io
import json
import os
import pickle
import signal
import socket
import struct
import sys
import tarfile
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from bsap.cli import main
from bsap.cli.fit import checkpoint as fit_checkpoint
from bsap.errors import BSAPError, ConfigError, ModelError
from bsap.models import checkpoint, weights
from bsap.models.architecture import check_architecture, plain_text_config
from bsap.models.config import EncoderConfig
from bsap.models.encoder import Encoder
from bsap.models.weights import locate
from bsap.propose.detectors import load_detector

MODEL: dict[str, Any] = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
FORBIDDEN = ("os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "subprocess.Popen", "socket.connect")
FORBIDDEN += ("socket.getaddrinfo", "socket.bind", "pickle.find_class", "os.remove", "os.rename")

_watching: list[str] | None = None

# The payloads of these tests open a file, which shows that they ran, and do not close it.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if _watching is None:
        return
    if event in FORBIDDEN:
        if event == "os.remove" and args[1] != -1:
            return  # a temporary folder of ours is emptied
        _watching.append(f"{event} {args!r}")
    elif event == "open":
        path, mode, flags = args
        ours = "__pycache__" in str(path) or str(path).startswith(f"{tempfile.gettempdir()}/tmp")
        written = (mode and set(mode) & set("wax+")) or (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if written and not ours:
            _watching.append(f"open {args!r}")
    elif event == "exec" and "hostile" in str(getattr(args[0], "co_filename", "")) and "test_" not in str(args[0]):
        _watching.append(f"exec {args!r}")


sys.addaudithook(_hook)


@pytest.fixture(scope="module", autouse=True)
def warm() -> None:
    """Import what models need before anything is watched."""
    __import__("transformers").AutoTokenizer  # noqa: B018
    Encoder({"name": "demo", "random_init": True})


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[str]]]:
    """What happened since the test began that must not; ended after 60 seconds."""
    global _watching

    def late(*args: Any) -> None:
        raise TimeoutError("waits for ever")

    def forbidden(*args: Any, **options: Any) -> Any:
        assert _watching is not None
        _watching.append("asked or connected")
        raise OSError("not here")

    monkeypatch.setattr(builtins, "input", lambda *args: seen.append("input") or "y")
    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, forbidden)
    monkeypatch.setattr(socket, "getaddrinfo", forbidden)
    seen: list[str] = []
    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    files = {path for path in tmp_path.rglob("*") if path.is_file()}

    def happened() -> list[str]:
        global _watching
        _watching = None
        new = {path for path in tmp_path.rglob("*") if path.is_file()} - files
        return seen + [str(path) for path in new if path.name.startswith("witness")]

    _watching = seen
    yield happened
    _watching = None
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def unwatched(make: Callable[[], Any]) -> Any:
    """Make a file while nothing is watched."""
    global _watching
    before, _watching = _watching, None
    try:
        return make()
    finally:
        _watching = before


def folder(path: Path, content: Any = None, file: str | None = None, write: Callable[[Path], Any] | None = None) -> str:
    """A `local-dir:` model with a configuration and perhaps a weight file."""
    path.mkdir(exist_ok=True)
    text = content if isinstance(content, str) else json.dumps({"model_cfg": MODEL} if content is None else content)
    (path / "open_clip_config.json").write_text(text)
    if file is not None and write is not None:
        write(path / file)
    return f"local-dir:{path}"


def tiny_state() -> dict[str, torch.Tensor]:
    model = open_clip.factory.CLIP(**json.loads(json.dumps(MODEL)))
    return {key: value.contiguous() for key, value in model.state_dict().items()}


# --- weight files -----------------------------------------------------------------------------------------------------


class Reduces:
    """Unpickling it makes the witness."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.witness), "w")


class Sets(Reduces):
    """Its state makes the witness, not its class."""

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (), None, iter([Reduces(self.witness)])


def payloads(witness: Path) -> dict[str, bytes]:
    """Pickles that make the witness, by way of each instruction that can call something."""
    name, touch = str(witness).encode(), f"open('{witness}', 'w')".encode()
    found = {f"protocol {p}": pickle.dumps({"w": Reduces(witness)}, protocol=p) for p in range(6)}
    return found | {
        "in a list": pickle.dumps(Sets(witness), protocol=2),
        "GLOBAL": b"cos\nsystem\n(S'touch %b'\ntR." % name,
        "INST": b"(S'touch %b'\nios\nsystem\n." % name,
        "OBJ": b"(cos\nsystem\nS'touch %b'\no." % name,
        "STACK_GLOBAL": b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c%c%b\x85R." % (len(touch), touch),
        "NEWOBJ": b"\x80\x02cpathlib\nPath\n(X%b%btR0cos\nsystem\n(X%b%btR." % (_text(name) + _text(b"touch " + name)),
        "BUILD": b"\x80\x02cbuiltins\neval\n(X%b%btR}b." % _text(touch),
    }


def _text(data: bytes) -> tuple[bytes, bytes]:
    return struct.pack("<I", len(data)), data


def _zip(file: Any, entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)


def _legacy(payload: bytes) -> bytes:
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    magic, version = pickle.dumps(0x1950A86A20F9469CFC6C, 2), pickle.dumps(1001, 2)
    return magic + version + pickle.dumps(system, 2) + payload + pickle.dumps([], 2)


def _tar(payload: bytes) -> bytes:
    buffer = io.BytesIO()
    parts = {"storages": pickle.dumps(0, 2), "tensors": pickle.dumps(0, 2), "pickle": payload}
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in parts.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _archive(payload: bytes, **more: bytes) -> bytes:
    buffer = io.BytesIO()
    _zip(buffer, {"a/data.pkl": payload, "a/version": b"3\n", "a/byteorder": b"little", **more})
    return buffer.getvalue()


def _appended(payload: bytes) -> bytes:
    buffer = io.BytesIO()
    _zip(buffer, {"a/constants.pkl": b"\x80\x02)."})
    return _legacy(payload) + buffer.getvalue()


def _numpy(payload: bytes) -> bytes:
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    header += b" " * (63 - (len(header) + 10) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + payload


def _numpy_zip(payload: bytes) -> bytes:
    buffer = io.BytesIO()
    _zip(buffer, {"params/img/embedding/kernel.npy": _numpy(payload)})
    return buffer.getvalue()


def _twice(payload: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for data in (payload, pickle.dumps({}, 2), payload):  # readers differ in which they take
            archive.writestr("a/data.pkl", data)
        archive.writestr("a/version", b"3\n")
    return buffer.getvalue()


CONTAINERS: dict[str, Callable[[bytes], bytes]] = {
    "pickle": bytes,
    "legacy": _legacy,
    "legacy with a zip behind it": _appended,
    "tar": _tar,
    "zip": _archive,
    "zip with constants further down": lambda p: _archive(p, **{"a/sub/constants.pkl": b"\x80\x02)."}),
    "TorchScript": lambda p: _archive(p, **{"a/constants.pkl": b"\x80\x02).", "a/code/x.py": b"import os"}),
    "constants that run": lambda p: _archive(b"\x80\x02}.", **{"a/constants.pkl": p}),
    "zip in a zip": lambda p: _archive(b"\x80\x02}.", **{"a/data/0": _archive(p), "b/data.pkl": p}),
    "zip with two of a name": _twice,
    "zip behind a pickle": lambda p: p + _archive(p),
    "npy": _numpy,
    "npz": _numpy_zip,
}


@pytest.mark.parametrize(
    "kind", ["protocol 2", "GLOBAL", "INST", "OBJ", "STACK_GLOBAL", "NEWOBJ", "BUILD", "in a list"]
)
def test_the_payloads_work_where_they_are_not_refused(kind: str, tmp_path: Path) -> None:
    pickle.loads(payloads(tmp_path / "witness")[kind])
    assert (tmp_path / "witness").exists()


@pytest.mark.parametrize(
    "container", [kind for kind in CONTAINERS if kind not in ("TorchScript", "constants that run")]
)
def test_the_files_work_where_they_are_not_refused(container: str, tmp_path: Path) -> None:
    file = tmp_path / "w.pt"
    file.write_bytes(CONTAINERS[container](payloads(tmp_path / "witness")["protocol 2"]))
    reads: list[Callable[[Path], Any]] = [
        lambda file: torch.load(file, weights_only=False),
        lambda file: np.load(file, allow_pickle=True),
        lambda file: np.load(file, allow_pickle=True)["params/img/embedding/kernel"],
        lambda file: pickle.loads(file.read_bytes()[file.read_bytes().index(b"\x80\x02}") :]),
        lambda file: pickle.loads(zipfile.ZipFile(file).read("b/data.pkl")),
        lambda file: pickle.loads(zipfile.ZipFile(file).read("a/data.pkl")),
        lambda file: pickle.loads(file.read_bytes()),
    ]
    for read in reads:
        try:
            read(file)
        except Exception:
            continue
    assert (tmp_path / "witness").exists()


@pytest.mark.parametrize("suffix", ["bin", "safetensors"])
@pytest.mark.parametrize("container", CONTAINERS)
def test_no_file_of_a_folder_runs(
    container: str, suffix: str, tmp_path: Path, watched: Callable[[], list[str]]
) -> None:
    for number, (kind, payload) in enumerate(payloads(tmp_path / "witness").items()):
        data = CONTAINERS[container](payload)
        name = unwatched(
            lambda n=number, d=data: folder(tmp_path / f"{n}", None, f"w.{suffix}", lambda f: f.write_bytes(d))
        )
        with pytest.raises(ModelError, match=r"\bw\." + suffix) as caught:
            Encoder(name)
        assert "weights_only" not in str(caught.value), kind
    assert watched() == []


@pytest.mark.parametrize("suffix", ["pt", "npz", "npy", "safetensors", "ckpt", ""])
@pytest.mark.parametrize("container", CONTAINERS)
def test_no_named_file_runs(
    container: str,
    suffix: str,
    tmp_path: Path,
    watched: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "Tiny-8", MODEL)
    file = tmp_path / f"dir.d/w.{suffix}".rstrip(".")
    file.parent.mkdir()
    unwatched(lambda: file.write_bytes(CONTAINERS[container](payloads(tmp_path / "witness")["protocol 2"])))
    with pytest.raises(ModelError, match=r"/w"):
        Encoder({"name": "Tiny-8", "pretrained": str(file), "quickgelu": False})
    with pytest.raises(ModelError, match=r"/w"):
        load_detector("fasterrcnn_mobilenet_v3_large_320_fpn", weights=file)
    with pytest.raises(ConfigError, match=r"w\S* is no checkpoint that `bsap fit` wrote"):
        fit_checkpoint(str(file), SimpleNamespace(run=None))  # type: ignore[arg-type]
    assert watched() == []


@pytest.mark.parametrize("container", CONTAINERS)
def test_no_file_of_the_hub_runs(
    container: str, tmp_path: Path, watched: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = CONTAINERS[container](payloads(tmp_path / "witness")["protocol 4"])
    unwatched(lambda: folder(tmp_path / "hub", None, "open_clip_pytorch_model.bin", lambda f: f.write_bytes(data)))

    def download(repo: str, name: str, **options: Any) -> str:
        from huggingface_hub.errors import LocalEntryNotFoundError

        if not (tmp_path / "hub" / name).exists():
            raise LocalEntryNotFoundError(name)
        return str(tmp_path / "hub" / name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    with pytest.raises(ModelError, match=r"is not a state dictionary|is a TorchScript archive"):
        Encoder("hf-hub:a/b")
    assert watched() == []


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_files_are_errors_of_ours(tmp_path: Path, data: st.DataObject) -> None:
    """Any change of any byte of a good file, and of a bad one."""
    kinds = [*CONTAINERS, "good"]
    container, seed = data.draw(st.sampled_from(kinds)), tmp_path / "good.pt"
    if not seed.exists():
        torch.save({"a": torch.ones(3)}, seed)
    good = seed.read_bytes()
    content = bytearray(
        good if container == "good" else CONTAINERS[container](payloads(tmp_path / "witness")["protocol 2"])
    )
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    file = tmp_path / "changed.pt"
    file.write_bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(ModelError):
            checkpoint.read_plain(file)
    assert not (tmp_path / "witness").exists()


class Writes(torch.nn.Module):
    """A TorchScript module that writes a file while it is loaded."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    @torch.jit.export
    def __getstate__(self) -> tuple[bool, str]:
        return (self.training, self.path)

    @torch.jit.export
    def __setstate__(self, state: tuple[bool, str]) -> None:
        self.training = state[0]
        self.path = state[1]
        torch.save([torch.ones(1)], state[1])


@pytest.mark.parametrize("renamed", [False, True], ids=["as saved", "constants elsewhere"])
@pytest.mark.parametrize("suffix", ["pt", "bin", "pth", "safetensors"])
def test_no_torchscript_of_a_stranger_is_loaded(
    suffix: str, renamed: bool, tmp_path: Path, watched: Callable[[], list[str]]
) -> None:
    witness, source = tmp_path / "witness", tmp_path / "source.zip"

    def make(file: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.save(torch.jit.script(Writes(str(witness))), str(source))
            torch.jit.load(str(source))
        assert witness.exists(), "the payload must work where it is not refused"
        witness.unlink()
        with zipfile.ZipFile(source) as archive:
            entries = {name: archive.read(name) for name in archive.namelist()}
        if renamed:
            entries = {name.replace("constants.pkl", "sub/constants.pkl"): data for name, data in entries.items()}
        _zip(file, entries)

    name = unwatched(lambda: folder(tmp_path / "model", None, f"w.{suffix}", make))
    message = r"w\.\w+ is not a state dictionary"
    if suffix != "safetensors" and not renamed:
        message = r"w\.\w+ is a TorchScript archive.*Save `model\.state_dict\(\)` as safetensors"
    with pytest.raises(ModelError, match=message):
        Encoder(name)
    assert watched() == []


def test_a_known_archive_that_is_changed_after_it_was_hashed_is_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "openai.pt"
    file.write_bytes(b"the known one")
    monkeypatch.setitem(weights.OPENAI, checkpoint.file_sha256(file), "ViT-S-32-alt")
    located = locate(EncoderConfig("ViT-S-32-alt", str(file)))
    assert located.openai
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(Writes(str(tmp_path / "witness"))), str(file))
    with pytest.raises(ModelError, match=r"openai\.pt changed while it was read"):
        checkpoint.build(located)
    assert not (tmp_path / "witness").exists()


@pytest.mark.parametrize("form", ["pt", "legacy", "state_dict", "module", "safetensors"])
def test_honest_files_still_load(form: str, tmp_path: Path, watched: Callable[[], list[str]]) -> None:
    state = tiny_state()
    file = tmp_path / "model" / ("w.safetensors" if form == "safetensors" else "w.pt")

    def make(path: Path) -> None:
        if form == "safetensors":
            save_file(state, path)
        elif form == "state_dict":
            torch.save({"epoch": 3, "state_dict": state}, path)
        elif form == "module":
            torch.save({f"module.{key}": value for key, value in state.items()}, path)
        else:
            torch.save(state, path, _use_new_zipfile_serialization=form == "pt")

    encoder = Encoder(unwatched(lambda: folder(tmp_path / "model", None, file.name, make)))
    assert watched() == []
    own = encoder.model.state_dict()
    assert own.keys() == state.keys()
    assert all(torch.equal(own[key], state[key]) for key in state)


# --- files that are no files ------------------------------------------------------------------------------------------

ODD: dict[str, Callable[[Path], Any]] = {
    "pipe": os.mkfifo,
    "endless": lambda path: path.symlink_to("/dev/zero"),
    "terminal": lambda path: path.symlink_to("/dev/stdin"),
    "nothing": lambda path: path.symlink_to("/nowhere/at/all"),
    "circle": lambda path: path.symlink_to(path),
    "folder": lambda path: path.mkdir(),
    "pipe behind a link": lambda path: (os.mkfifo(path.with_suffix(".p")), path.symlink_to(path.with_suffix(".p"))),
    "another file": lambda path: path.symlink_to("/etc/passwd"),
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("name", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin", "x.pt"])
def test_weights_that_are_no_regular_file(
    odd: str, name: str, tmp_path: Path, watched: Callable[[], list[str]]
) -> None:
    model = unwatched(lambda: folder(tmp_path / "model", None, name, ODD[odd]))
    with pytest.raises(ModelError, match=r"holds no weights|is not a state dictionary") as caught:
        Encoder(model)
    assert "root:" not in str(caught.value)
    with pytest.raises(ModelError, match=r"there is no weight file|is not a state dictionary"):
        Encoder({"name": "ViT-S-32-alt", "pretrained": str(tmp_path / "model" / name), "quickgelu": False})
    assert watched() == []


@pytest.mark.parametrize("odd", ODD)
def test_a_configuration_that_is_no_regular_file(odd: str, tmp_path: Path, watched: Callable[[], list[str]]) -> None:
    ODD[odd](tmp_path / "open_clip_config.json")
    with pytest.raises(ModelError, match=r"has no readable|is not JSON") as caught:
        Encoder(f"local-dir:{tmp_path}")
    assert "root:" not in str(caught.value)
    assert watched() == []


def test_a_link_to_a_weight_file_is_one(tmp_path: Path) -> None:
    """The hub's cache is made of them."""
    save_file(tiny_state(), tmp_path / "blob")
    Encoder(folder(tmp_path / "model", None, "w.safetensors", lambda file: file.symlink_to(tmp_path / "blob")))


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        "{}" + " " * (1 << 20),
        '{"model_cfg": NaN}',
        "\x00",
        '"x"',
        "[]",
        "null",
        "1e999",
    ],
    ids=lambda text: text[:12],
)
def test_text_that_is_no_configuration(text: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"open_clip_config\.json"):
        Encoder(folder(tmp_path, text))


# --- what JSON may say ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "extra", "message"),
    [
        ("text_cfg", {"tokenizer_kwargs": {"trust_remote_code": True}}, "unknown key 'trust_remote_code'"),
        ("text_cfg", {"tokenizer_kwargs": {"bpe_path": "/dev/zero"}}, "unknown key 'bpe_path'"),
        ("text_cfg", {"tokenizer_kwargs": {"cache_dir": "/tmp/x"}}, "unknown key 'cache_dir'"),
        ("text_cfg", {"tokenizer_kwargs": {"config": "x"}}, "unknown key 'config'"),
        ("text_cfg", {"tokenizer_kwargs": ["clean"]}, "must be a mapping"),
        ("text_cfg", {"tokenizer_kwargs": {"clean": "evil"}}, "canonicalize, lower or whitespace"),
        ("text_cfg", {"hf_model_name": "../evil"}, "a repository of the Hugging Face hub"),
        ("text_cfg", {"hf_model_name": "/tmp/evil"}, "a repository of the Hugging Face hub"),
        ("text_cfg", {"hf_model_name": "https://evil.example/x"}, "a repository of the Hugging Face hub"),
        ("text_cfg", {"hf_tokenizer_name": "/tmp/evil"}, "a repository of the Hugging Face hub"),
        ("text_cfg", {"hf_tokenizer_name": "../../evil"}, "a repository of the Hugging Face hub"),
        ("text_cfg", {"hf_tokenizer_name": ["a", "b"]}, "a repository of the Hugging Face hub"),
        ("text_cfg", {"hf_model_config": {}}, "unknown key 'hf_model_config'"),
        ("text_cfg", {"context_length": None}, "a whole number"),
        ("text_cfg", {"width": 10**12}, "a whole number of 0 to 2097152"),
        ("text_cfg", {"layers": -1}, "a whole number"),
        ("text_cfg", {"layers": True}, "a whole number"),
        ("text_cfg", {"mlp_ratio": 1e300}, "a number"),
        ("text_cfg", {"mlp_ratio": float("nan")}, "a number"),
        ("text_cfg", {"mlp_ratio": 10**400}, "a number"),
        ("text_cfg", {"tokenizer_kwargs": {"clean": None}}, "canonicalize, lower or whitespace"),
        ("text_cfg", {"norm_kwargs": {"device": "meta"}}, "unknown key 'device'"),
        ("text_cfg", {"act_kwargs": {"inplace": True}}, "unknown key 'inplace'"),
        ("text_cfg", {"vocab_size": 1 << 21, "width": 1 << 20}, "more than 10,000,000,000 parameters"),
        ("text_cfg", {"layers": 1 << 20, "width": 1 << 10}, "more than 10,000,000,000 parameters"),
        ("text_cfg", {"context_length": 1 << 20}, "more than 10,000,000,000 parameters"),
        ("vision_cfg", {"timm_model_name": "hf-hub:evil/tower"}, "a plain name"),
        ("vision_cfg", {"timm_model_name": "hf_hub:evil/tower"}, "a plain name"),
        ("vision_cfg", {"timm_model_name": "local-dir:/tmp/evil"}, "a plain name"),
        ("vision_cfg", {"timm_model_name": "a/b"}, "a plain name"),
        ("vision_cfg", {"timm_model_pretrained": "x.bin"}, "true or false"),
        ("vision_cfg", {"pretrained": "x.bin"}, "unknown key 'pretrained'"),
        ("vision_cfg", {"image_size": 1 << 20, "patch_size": 1}, "more than 10,000,000,000 parameters"),
        ("vision_cfg", {"image_size": [16] * 9}, "one to four whole numbers"),
        ("vision_cfg", {"layers": [2, 2, 2, 2], "width": 1 << 14}, "more than 10,000,000,000 parameters"),
        ("vision_cfg", {"layers": 0, "patch_size": 1 << 19}, "more than 10,000,000,000 parameters"),
        ("vision_cfg", {"layers": 1 << 20, "width": 8}, "more than 10,000,000,000 parameters"),
        ("vision_cfg", {"layers": [1 << 20] * 4}, "more than 10,000,000,000 parameters"),
        (None, {"embed_dim": 10**12}, "a whole number of 0 to 2097152"),
        (None, {"pretrained": "laion"}, "unknown key 'pretrained'"),
        (None, {"pretrained_hf": True}, "unknown key 'pretrained_hf'"),
        (None, {"cast_dtype": "x"}, "unknown key 'cast_dtype'"),
        (None, {"__class__": "x"}, "unknown key '__class__'"),
        (None, {"multimodal_cfg": {"hf_model_name": "../x"}}, "a repository of the Hugging Face hub"),
        (None, {"custom_text": "yes"}, "true or false"),
        (None, {"x" * 10_000: 1}, "unknown key 'xxx"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_settings_that_lead_elsewhere(
    part: str | None, extra: dict[str, Any], message: str, tmp_path: Path, watched: Callable[[], list[str]]
) -> None:
    model = {**MODEL, **(extra if part is None else {part: {**MODEL[part], **extra}})}
    name = unwatched(lambda: folder(tmp_path / "model", {"model_cfg": model}))
    with pytest.raises(ModelError, match=message) as caught:
        Encoder({"name": name, "random_init": True})
    assert "open_clip_config.json" in str(caught.value)
    assert len(str(caught.value)) < 2000
    assert watched() == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=6,
)
PATHS = [(part, key) for part in ("vision_cfg", "text_cfg") for key in MODEL[part]]
PATHS += [("text_cfg", key) for key in ("tokenizer_kwargs", "norm_kwargs", "hf_model_name", "hf_tokenizer_name", "x")]
PATHS += [("vision_cfg", key) for key in ("timm_model_name", "patch_dropout", "mlp_ratio", "act_kwargs", "y")]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(PATHS), JSON)
def test_any_value_at_any_key_is_fine_or_an_error_of_ours(place: tuple[str, str], value: Any) -> None:
    part, key = place
    try:
        check_architecture({**MODEL, part: {**MODEL[part], key: value}}, Path("c.json"))
    except ModelError as error:
        assert "c.json" in str(error)  # noqa: PT017


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(JSON, st.sampled_from(["model_cfg", "preprocess_cfg", "vision_cfg", "text_cfg", "embed_dim", "other", "all"]))
def test_any_configuration_is_fine_or_an_error_of_ours(tmp_path: Path, value: Any, where: str) -> None:
    content: Any = {"model_cfg": {**MODEL}}
    if where == "all":
        content = value
    elif where in MODEL:
        content["model_cfg"][where] = value
    else:
        content[where] = value
    try:
        locate(EncoderConfig(folder(tmp_path / "model", content), random_init=True))
    except BSAPError as error:
        assert "open_clip_config.json" in str(error)  # noqa: PT017


def test_every_architecture_of_open_clip_passes() -> None:
    for name in open_clip.list_models():
        check_architecture(open_clip.get_model_config(name), Path(name))


# --- tokenizers and text towers of transformers -----------------------------------------------------------------------

CODE = "open({witness!r}, 'w')\nfrom transformers import PreTrainedTokenizerFast as T\nclass Evil(T): pass\n"


def with_tokenizer(path: Path, *, tokenizer: dict[str, Any], config: dict[str, Any] | None = None) -> str:
    """A model with a small tokenizer, settings of its own in its JSON files, and Python code beside them."""
    tokenizers, transformers = pytest.importorskip("tokenizers"), pytest.importorskip("transformers")
    raw = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>"))
    text = {**MODEL["text_cfg"], "hf_tokenizer_name": "me/mine"}
    name = folder(
        path, {"model_cfg": {**MODEL, "text_cfg": text}}, "w.safetensors", lambda f: save_file(tiny_state(), f)
    )
    transformers.PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<unk>").save_pretrained(path)
    (path / "evil.py").write_text(CODE.format(witness=str(path / "witness")))
    file = path / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | tokenizer))
    if config is not None:
        (path / "config.json").write_text(json.dumps(config))
    return name


AUTO = {"AutoTokenizer": ["evil.Evil", "evil.Evil"], "AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}


@pytest.mark.parametrize(
    ("tokenizer", "config"),
    [
        ({"auto_map": AUTO}, None),
        ({"auto_map": AUTO, "tokenizer_class": "Evil"}, None),
        ({"auto_map": {"AutoTokenizer": ["me/evil--evil.Evil", None]}, "tokenizer_class": "Evil"}, None),
        ({"auto_map": AUTO["AutoTokenizer"], "tokenizer_class": "Evil"}, None),
        ({}, {"auto_map": AUTO, "model_type": "evil"}),
        ({}, {"auto_map": AUTO, "model_type": "bert"}),
        ({"tokenizer_class": "Evil"}, {"auto_map": AUTO, "model_type": "evil"}),
        ({"auto_map": AUTO, "trust_remote_code": True}, {"auto_map": AUTO, "trust_remote_code": True}),
    ],
)
def test_no_code_of_a_tokenizer_runs_and_nobody_is_asked(
    tokenizer: dict[str, Any], config: dict[str, Any] | None, tmp_path: Path, watched: Callable[[], list[str]]
) -> None:
    name = unwatched(lambda: with_tokenizer(tmp_path / "hostile", tokenizer=tokenizer, config=config))
    with pytest.raises(ModelError, match=r"config\.json names Python code by `auto_map`, which is not executed"):
        Encoder(name)
    assert watched() == []


@pytest.mark.parametrize(
    "tokenizer",
    [{}, {"trust_remote_code": True}, {"tokenizer_class": "TransfoXLTokenizer"}, {"tokenizer_class": "evil.Evil"}],
)
def test_tokenizers_without_code_are_read_or_refused(
    tokenizer: dict[str, Any], tmp_path: Path, watched: Callable[[], list[str]]
) -> None:
    def make() -> str:
        name = with_tokenizer(tmp_path / "hostile", tokenizer=tokenizer)
        for file in ("vocab.pkl", "vocab.txt", "spiece.model", "corpus.cache"):
            (tmp_path / "hostile" / file).write_bytes(payloads(tmp_path / "witness")["protocol 2"])
        return name

    try:
        Encoder(unwatched(make))
    except ModelError:
        assert tokenizer
    assert watched() == []


def test_the_code_of_a_tokenizer_is_refused_by_transformers_too(
    tmp_path: Path, watched: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our own look at the files is not all that stands in the way."""
    name = unwatched(
        lambda: with_tokenizer(tmp_path / "hostile", tokenizer={"auto_map": AUTO, "tokenizer_class": "Evil"})
    )
    monkeypatch.setattr(checkpoint, "check_tokenizer_files", lambda folder: None)
    located = locate(EncoderConfig(name))
    with pytest.raises(ModelError, match=r"Tokenizer files in .* cannot be read"):
        checkpoint.make_tokenizer(located)
    assert watched() == []


BERT = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 50,
    "max_position_embeddings": 16,
}
HOSTILE = {
    "auto_map": AUTO,
    "attn_implementation": "evil/kernel",
    "_attn_implementation": "evil/kernel",
    "_attn_implementation_internal": "evil/kernel",
    "_name_or_path": "evil/repo",
    "quantization_config": {"quant_method": "evil"},
    "use_kernels": True,
    "trust_remote_code": True,
    "__class__": "evil",
}


def test_of_a_text_towers_configuration_only_its_kinds_fields_are_read(
    tmp_path: Path, watched: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "hub").mkdir()
    file = tmp_path / "hub" / "config.json"
    unwatched(lambda: file.write_text(json.dumps({**BERT, **HOSTILE})))
    unwatched(lambda: (tmp_path / "hub" / "evil.py").write_text(CODE.format(witness=str(tmp_path / "witness"))))
    monkeypatch.setattr(checkpoint, "hub_file", lambda repo, names, **options: file)
    text = {"context_length": 8, "hf_model_name": "evil/repo", "hf_model_pretrained": True}
    text |= {"hf_tokenizer_name": "evil/repo", "hf_proj_type": "linear"}
    name = unwatched(lambda: folder(tmp_path / "model", {"model_cfg": {**MODEL, "text_cfg": text}}))
    encoder = Encoder({"name": name, "random_init": True})
    config = encoder.model.text.config
    assert (config.hidden_size, config.vocab_size) == (16, 50)
    assert "evil" not in json.dumps({**config.to_dict(), "a": str(config._attn_implementation)}, default=str)
    assert watched() == []


@pytest.mark.parametrize("kind", ["evil", None, 5, ["bert"], "clip", "../bert"])
def test_text_towers_of_another_kind(kind: Any) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(ModelError, match=r"Text model a/b is of the kind .* open_clip knows roberta"):
        plain_text_config({**BERT, **HOSTILE, "model_type": kind}, "a/b")


# --- checkpoints of `bsap fit` ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["http://evil.example/x.ckpt", "memory://x", "hpc", "best", "/dev/zero", "."])
def test_a_checkpoint_is_a_file_of_this_machine(path: str, watched: Callable[[], list[str]]) -> None:
    with pytest.raises(ConfigError, match=r"(does not exist|is a pipe or a device|is a folder)\. Start without"):
        fit_checkpoint(path, SimpleNamespace(run=None))  # type: ignore[arg-type]
    assert watched() == []


def test_a_hostile_model_is_one_line_on_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "data"
    name = folder(
        tmp_path / "model", None, "w.pt", lambda f: f.write_bytes(_archive(payloads(tmp_path / "witness")["GLOBAL"]))
    )
    from PIL import Image

    root.mkdir()
    Image.new("RGB", (32, 32)).save(root / "a.png")
    words = ["predict", f"--data.picture={root / 'a.png'}", "--data.boxes=[[1,1,9,9],[9,9,30,30]]"]
    assert (
        main(
            [
                *words,
                "--data.expressions=[a dog]",
                "--model.encoders",
                json.dumps([{"name": name}]),
                "--trainer.accelerator=cpu",
            ]
        )
        == 2
    )
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "is not a state dictionary" in error
    assert not (tmp_path / "witness").exists()
