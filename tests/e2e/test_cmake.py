"""CMakeLists.txt, by the conventions of Triton's backends."""

import os
import shutil
import subprocess

import pytest
from server import ROOT

BUILT = ROOT / "target" / "release" / "libtriton_llm.so"
pytestmark = pytest.mark.skipif(not shutil.which("cmake"), reason="cmake is not installed")


def cmake(*arguments, **options):
    return subprocess.run(
        ["cmake", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=280, env=dict(os.environ), **options
    )


def test_configure_build_install(tmp_path):
    """The three usual commands put the library into <prefix>/backends/llm; cargo's target is reused."""
    native = "OFF" if os.environ.get("PORTABLE") == "1" else "ON"
    build, prefix = tmp_path / "build", tmp_path / "tritonserver"
    for arguments in (
        ["-B", build, f"-DCMAKE_INSTALL_PREFIX={prefix}", f"-DTRITON_LLM_NATIVE={native}"],
        ["--build", build],
        ["--install", build],
    ):
        done = cmake(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
    assert [p.name for p in (prefix / "backends" / "llm").iterdir()] == ["libtriton_llm.so"]
    assert (prefix / "backends" / "llm" / "libtriton_llm.so").read_bytes() == BUILT.read_bytes()


def test_gpu_is_refused_with_a_reason(tmp_path):
    done = cmake("-B", tmp_path, "-DTRITON_ENABLE_GPU=ON")
    assert done.returncode != 0
    assert "TRITON_ENABLE_GPU" in done.stderr and "CUDA" in done.stderr, done.stderr


def test_headers_that_are_not_there(tmp_path):
    done = cmake("-B", tmp_path, "-DTRITON_INCLUDE_DIR=/nowhere")
    assert done.returncode != 0
    assert "TRITON_INCLUDE_DIR" in done.stderr and "tritonbackend.h" in done.stderr, done.stderr
