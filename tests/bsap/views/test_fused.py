"""The Triton kernels without a GPU: against PIL in Triton's interpreter, and through its compiler."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", minversion="3.4")  # comes with torch on Linux; the compiler's own interface was another


@pytest.mark.parametrize("marked", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_the_kernels_draw_as_pil_does(marked):
    """Triton reads its variable when kernels are made: they are interpreted in a process of their own."""
    file = Path(__file__).with_name("interpreted.py")
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-m", marked, "-p", "no:cacheprovider", str(file)],
        env={**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-2000:]


@pytest.mark.parametrize("support", [1, 2])
@pytest.mark.parametrize("kernel", ["rows", "columns"])
def test_the_kernels_compile_for_a_gpu(kernel, support, tmp_path, monkeypatch):
    """What the interpreter takes the compiler may refuse. Products are not fused: pixels on a border would change."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from bsap.views import fused

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    pointers = {"flat": "*u8", "masks": "*u8", "lines": "*u8", "table": "*i64", "out": "*u8"}
    constants = {"fields": 25, "support": support, "block": 256}
    function = getattr(fused, f"resample_{kernel}")
    signature = {name: pointers.get(name, "i32") for name in function.arg_names} | dict.fromkeys(constants, "constexpr")
    places = {(function.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=function, signature=signature, constexprs=places)
    compiled = compile(source, target=GPUTarget("cuda", 90, 32), options={"enable_fp_fusion": False})
    assert "fma.rn.f32" not in compiled.asm["ptx"]
