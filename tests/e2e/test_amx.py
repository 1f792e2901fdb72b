"""AMX is used as it must be: what is built for processors that have it, looked at on any machine."""

import os
import subprocess

import pytest
from amx import faults, of_file
from server import FOLDERS, ROOT, llama_source

# Of one function, compiled by GCC 12.2 with -O3: with its own header, and with ours in front of it.
OWN_HEADER = """
   2825e:	vpxor  %xmm0,%xmm0,%xmm0
   28262:	vmovdqa64 %zmm0,0xc0(%rsp)
   2826a:	movb   $0x1,0xc0(%rsp)
   28272:	ldtilecfg 0xc0(%rsp)
"""
OUR_HEADER = """
   2816e:	vpxor  %xmm0,%xmm0,%xmm0
   28172:	vmovdqa64 %zmm0,0xc0(%rsp)
   2817a:	mov    0x0(%rip),%rdx        # 28181 <_Z9multiplyv+0x341>
   28181:	vmovdqa 0x0(%rip),%xmm0        # 28189 <_Z9multiplyv+0x349>
   28189:	movb   $0x1,0xc0(%rsp)
   28191:	mov    %rdx,0xf0(%rsp)
   28199:	vmovdqa %xmm0,0xd0(%rsp)
   281a2:	ldtilecfg 0xc0(%rsp)
"""


@pytest.mark.parametrize(
    "listing, expected",
    [
        (OUR_HEADER, (1, None)),
        (OWN_HEADER, (1, "bytes [16, 18, 20, 22, 24, 26, 28, 30, 48, 49, 50, 51, 52, 53, 54, 55] are zero")),
        (OUR_HEADER.replace("vmovdqa64 %zmm0", "vmovdqa64 %ymm0"), (1, f"bytes {[*range(32, 48), *range(56, 64)]} are")),
        (OUR_HEADER.replace("%xmm0,0xd0", "%xmm0,0xe0"), (1, "bytes [16, 18,")),
        (OUR_HEADER.replace("0xc0(%rsp)", "(%rax,%rcx,1)"), (1, "reads from no place")),
        ("    1000:	ret\n", (0, None)),
    ],
)
def test_what_is_missing_is_seen(listing, expected):
    n_loads, found = faults(listing)
    n_expected, fault = expected
    assert n_loads == n_expected and len(found) == (fault is not None), found
    assert fault is None or found[0].startswith(fault), found


def test_this_compiler_writes_the_whole_configuration(tmp_path):
    """As a build for the machine's processor is compiled where that has AMX."""
    llama = llama_source()
    source = llama / "ggml" / "src" / "ggml-cpu" / "amx" / "mmq.cpp"
    folders = [f"-I{llama / folder}" for folder in ("ggml/include", "ggml/src", "ggml/src/ggml-cpu")]
    environment = {**os.environ, "CPATH": f"{ROOT}/include/compiler"}
    for level in ("-O2", "-O3"):
        target = tmp_path / "mmq.o"
        command = ["c++", "-std=c++17", level, "-DNDEBUG", "-fPIC", "-march=sapphirerapids", *folders, "-c", source, "-o", target]
        subprocess.run(command, check=True, env=environment, timeout=240)
        n_loads, found = of_file(target)
        assert n_loads > 0 and not found, found


def test_what_is_built_does():
    """All files of the folders and the library for this machine."""
    n_loads = 0
    for file in [*(ROOT / "build" / "backends" / "llm").glob("*.so"), *(file for folder in FOLDERS for file in (folder / "llm").glob("*.so"))]:
        n_here, found = of_file(file)
        assert not found, f"{file}: {found}"
        n_loads += n_here
    assert n_loads > 0, "no module for processors with AMX has been built"
