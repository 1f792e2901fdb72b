"""The stock servers that the tests run on: Triton's version, and where each lies."""

from server import ROOT, find_tritonserver

#: Fetched by scripts/setup.sh --tests, from wheels of these versions.
SERVERS = {
    "2.41.0": ROOT / ".venv" / "servers" / "0.5.0" / "pytriton" / "tritonserver" / "bin" / "tritonserver",
    "2.44.0": ROOT / ".venv" / "servers" / "0.5.5" / "pytriton" / "tritonserver" / "bin" / "tritonserver",
    "default": find_tritonserver(),
}


def library_of(version):
    """The libtritonserver of a server, whatever its file is called there."""
    program = SERVERS[version]
    folders = [program.parents[3] / "nvidia_pytriton.libs", program.parents[1] / "lib"]
    found = [library for folder in folders for library in folder.glob("libtritonserver*.so")]
    assert len(found) == 1, found
    return found[0]
