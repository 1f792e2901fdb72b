"""The library as a file, or as a folder of files: what it exports, what it needs, and what it asks of the server."""

import platform
import re
import subprocess

import pytest
from server import FOLDERS, LIBRARY, ROOT
from servers import SERVERS, library_of

LIBRARIES = [LIBRARY, *(folder / "llm" / LIBRARY.name for folder in FOLDERS)]
#: What each file may be short of on a machine, so that llama.cpp passes it over there.
OPTIONAL = {"libggml-cuda.so": r"(libcuda\.so\.1|lib(cudart|cublas)\.so\.1[2-9])"}
HEADER = ROOT / "include" / "triton_abi.h"


def lines(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def exported(library):
    return {line.split()[-1].split("@")[0] for line in lines("nm", "-D", "--defined-only", library)}


def name_of(path):
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def files_of(library):
    """The files that are shipped: the library alone, or all of its folder."""
    return [library] if library == LIBRARY else sorted(library.parent.iterdir())


each_library = pytest.mark.parametrize("library", LIBRARIES, ids=name_of)


@each_library
def test_exports_only_the_backend_api(library):
    names = exported(library)
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


@each_library
def test_leaves_no_triton_symbol_undefined(library):
    undefined = [line.split()[-1] for line in lines("nm", "-D", "--undefined-only", library)]
    assert [name for name in undefined if name.startswith("TRITON")] == []


@each_library
def test_needs_no_library_that_a_server_image_may_lack(library):
    shipped = {file.name for file in files_of(library)}
    for file in files_of(library):
        dynamic = lines("readelf", "-d", file)
        needed = {re.search(r"\[(.*)\]", line)[1] for line in dynamic if "(NEEDED)" in line}
        assert needed, file
        # libstdc++ is in every process that tritonserver, a C++ program, runs in.
        usual = r"(libc|libm|libdl|librt|libpthread|libgcc_s|libstdc\+\+|ld-linux-(x86-64|aarch64))\.so.*"
        allowed = f"{usual}|{OPTIONAL.get(file.name, usual)}"
        assert [name for name in needed - shipped if not re.fullmatch(allowed, name)] == [], file
        # They find each other wherever the folder lies, and look nowhere else.
        paths = [re.search(r"\[(.*)\]", line)[1] for line in dynamic if re.search(r"\((RPATH|RUNPATH)\)", line)]
        assert paths == (["$ORIGIN"] if len(shipped) > 1 else []), file


@each_library
def test_ships_what_it_needs_and_nothing_else(library):
    """Every file of a folder is our library, a module, or needed by one of these."""
    files = {file.name: file for file in files_of(library)}
    needed = {name for file in files.values() for name in re.findall(r"\[(.*)\]", "\n".join(lines("readelf", "-d", file)))}
    modules = {name for name in files if re.fullmatch(r"libggml-(cpu-\w+|cuda)\.so", name)}
    assert files.keys() - needed - modules == {library.name}


@each_library
def test_loads_in_ubuntu_22_04_images(library):
    """Built on Debian 12, it needs no more than NVIDIA's images have: glibc 2.35, GLIBCXX 3.4.30.

    On a newer system the linker may choose newer symbols; such a build is for that system.
    """
    dumps = {file: "\n".join(lines("objdump", "-T", file)) for file in files_of(library)}
    machine = tuple(map(int, platform.libc_ver()[1].split(".")))
    for name, limit in (("GLIBC", (2, 35)), ("GLIBCXX", (3, 4, 30)), ("CXXABI", (1, 3, 13))):
        every = []
        for file, dump in dumps.items():
            found = [tuple(map(int, v.split("."))) for v in re.findall(rf"\b{name}_([0-9.]+)", dump)]
            every += found
            if machine <= (2, 36):
                assert max(found, default=(0,)) <= limit, (file, name, max(found))
        assert every, name


def test_size():
    assert LIBRARY.stat().st_size <= 20 * 10**6


def declared_functions():
    """The functions that our header declares."""
    text = re.sub(r"/\*.*?\*/|//[^\n]*", "", HEADER.read_text(), flags=re.DOTALL)
    return set(re.findall(r"\b(TRITON(?:BACKEND|SERVER)_\w+)\s*\(", text))


@pytest.mark.parametrize("version", SERVERS)
def test_every_function_we_use_exists(version):
    """In the libtritonserver of each stock server, the oldest included: those of metrics, which are optional, too."""
    used = declared_functions() - exported(LIBRARY)
    assert len(used) > 20 and "TRITONSERVER_MetricIncrement" in used
    missing = used - exported(library_of(version))
    assert not missing, missing
