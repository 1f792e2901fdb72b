"""CMakeLists.txt, by the conventions of Triton's backends, and building against other headers."""

import os
import re
import shutil
import subprocess

import pytest
from server import ROOT

BUILT = ROOT / "target" / "release" / "libtriton_llm.so"
CUDA = ROOT / "build" / "cuda" / "backends" / "llm"
needs_cmake = pytest.mark.skipif(not shutil.which("cmake"), reason="cmake is not installed")


def cmake(*arguments, **options):
    return subprocess.run(
        ["cmake", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=280, env=dict(os.environ), **options
    )


@needs_cmake
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


@needs_cmake
@pytest.mark.parametrize("architectures", ["90a-real", "80-real;90-virtual"])
def test_gpu(tmp_path, architectures):
    """TRITON_ENABLE_GPU builds the folder with CUDA, for these GPUs; compiling it here would take an hour."""
    done = cmake("-B", tmp_path, "-DTRITON_ENABLE_GPU=ON", f"-DCMAKE_CUDA_ARCHITECTURES={architectures}")
    assert done.returncode == 0, done.stderr
    done = cmake("--build", tmp_path, "--", "-n")
    assert re.search(rf'"?CMAKE_CUDA_ARCHITECTURES={architectures}"? \S*/scripts/modules.sh --cuda', done.stdout), done.stdout


@needs_cmake
@pytest.mark.skipif(not CUDA.exists(), reason="make cuda has not run here")
def test_gpu_install(tmp_path):
    """All of the folder goes to <prefix>/backends/llm."""
    for arguments in (["-B", tmp_path / "build", "-DTRITON_ENABLE_GPU=ON"], ["--install", tmp_path / "build", "--prefix", tmp_path]):
        done = cmake(*arguments)
        assert done.returncode == 0, done.stderr
    installed = {file.name: file.read_bytes() for file in (tmp_path / "backends" / "llm").iterdir()}
    assert installed == {file.name: file.read_bytes() for file in CUDA.iterdir()}


@needs_cmake
def test_headers_that_are_not_there(tmp_path):
    done = cmake("-B", tmp_path, "-DTRITON_INCLUDE_DIR=/nowhere")
    assert done.returncode != 0
    assert "TRITON_INCLUDE_DIR" in done.stderr and "tritonbackend.h" in done.stderr, done.stderr


def generate_table(folder, include=None):
    """Runs build.rs, as the last build compiled it, and returns the tables of functions that it makes.

    A build of its own with TRITON_INCLUDE_DIR set would take minutes; this is the
    one step of it that reads the headers.
    """
    programs = list(BUILT.parent.glob("build/triton-llm-*/build-script-build"))
    assert programs, "build first: make build"
    program = max(programs, key=lambda path: path.stat().st_mtime)
    folder.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INCLUDE_DIR"}
    environment["OUT_DIR"] = str(folder)
    if include:
        environment["TRITON_INCLUDE_DIR"] = str(include)
    done = subprocess.run([program], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    tables = [folder / "triton_api.rs", folder / "triton_metrics_api.rs"]
    return done, "".join(table.read_text() for table in tables) if done.returncode == 0 else None


def test_headers_of_another_folder(tmp_path):
    """TRITON_INCLUDE_DIR's headers, which are C++ and include each other as NVIDIA's do, give the same tables as ours."""
    headers = tmp_path / "include" / "triton" / "core"
    headers.mkdir(parents=True)
    ours = (ROOT / "include" / "triton_abi.h").read_text()
    (headers / "tritonserver.h").write_text(f'extern "C" {{\n{ours}\n}}\n')
    more = "struct TRITONBACKEND_Unrelated; int TRITONBACKEND_NotUsed(TRITONBACKEND_Unrelated* thing);\n"
    (headers / "tritonbackend.h").write_text(f'#pragma once\n#include "triton/core/tritonserver.h"\n{more}')
    done, ours = generate_table(tmp_path / "ours")
    assert ours and "TRITONSERVER_LogMessage" in ours and "TRITONSERVER_MetricNew" in ours, done.stderr
    done, theirs = generate_table(tmp_path / "theirs", tmp_path / "include")
    assert theirs == ours, done.stderr
    # It is that folder which is read: what changes there changes the tables.
    text = (headers / "tritonserver.h").read_text()
    assert text.count("TRITONSERVER_LogMessage(") == 1
    (headers / "tritonserver.h").write_text(text.replace("TRITONSERVER_LogMessage(", "TRITONSERVER_LogMessage(int more, "))
    assert generate_table(tmp_path / "changed", tmp_path / "include")[1] not in (None, ours)
    # And a folder without headers is an error that names them.
    done, _ = generate_table(tmp_path / "none", tmp_path / "nowhere")
    assert done.returncode != 0 and "tritonbackend.h" in done.stderr
