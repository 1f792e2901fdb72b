"""The library as a file: what it exports, what it needs, and what it asks of the server."""

import platform
import re
import subprocess

import pytest
from server import LIBRARY, ROOT
from servers import SERVERS, library_of

HEADER = ROOT / "include" / "triton_abi.h"


def lines(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def exported(library):
    return {line.split()[-1].split("@")[0] for line in lines("nm", "-D", "--defined-only", library)}


def test_exports_only_the_backend_api():
    names = exported(LIBRARY)
    assert names and all(name.startswith("TRITONBACKEND_") for name in names), sorted(names)
    assert {
        "TRITONBACKEND_Initialize",
        "TRITONBACKEND_Finalize",
        "TRITONBACKEND_ModelInitialize",
        "TRITONBACKEND_ModelFinalize",
        "TRITONBACKEND_ModelInstanceInitialize",
        "TRITONBACKEND_ModelInstanceFinalize",
        "TRITONBACKEND_ModelInstanceExecute",
    } <= names


def test_leaves_no_triton_symbol_undefined():
    undefined = [line.split()[-1] for line in lines("nm", "-D", "--undefined-only", LIBRARY)]
    assert [name for name in undefined if name.startswith("TRITON")] == []


def test_needs_no_library_that_a_server_image_may_lack():
    needed = [re.search(r"\[(.*)\]", line)[1] for line in lines("readelf", "-d", LIBRARY) if "(NEEDED)" in line]
    assert needed
    for name in needed:
        # libstdc++ is in every process that tritonserver, a C++ program, runs in.
        assert re.match(r"(libc|libm|libgcc_s|libstdc\+\+|ld-linux-x86-64)\.so", name), needed


def test_loads_in_ubuntu_22_04_images():
    """Built on Debian 12, it needs no more than NVIDIA's images have: glibc 2.35, GLIBCXX 3.4.30.

    On a newer system the linker may choose newer symbols; such a build is for that system.
    """
    dump = "\n".join(lines("objdump", "-T", LIBRARY))
    machine = tuple(map(int, platform.libc_ver()[1].split(".")))
    for name, limit in (("GLIBC", (2, 35)), ("GLIBCXX", (3, 4, 30))):
        found = [tuple(map(int, v.split("."))) for v in re.findall(rf"\b{name}_([0-9.]+)", dump)]
        assert found, name
        if machine <= (2, 36):
            assert max(found) <= limit, (name, max(found))


def test_size():
    assert LIBRARY.stat().st_size <= 20 * 10**6


def declared_functions():
    """The functions that our header declares."""
    text = re.sub(r"/\*.*?\*/|//[^\n]*", "", HEADER.read_text(), flags=re.DOTALL)
    return set(re.findall(r"\b(TRITON(?:BACKEND|SERVER)_\w+)\s*\(", text))


@pytest.mark.parametrize("version", SERVERS)
def test_every_function_we_use_exists(version):
    """In the libtritonserver of each stock server, the oldest included."""
    used = declared_functions() - exported(LIBRARY)
    assert len(used) > 20
    missing = used - exported(library_of(version))
    assert not missing, missing
