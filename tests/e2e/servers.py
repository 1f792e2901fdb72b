"""The stock servers that the tests run on: Triton's version, and where each lies."""

from server import ROOT, find_tritonserver

VENV = ROOT / ".venv"
PROGRAM = "pytriton/tritonserver/bin/tritonserver"


def program_of(wheel):
    """Where scripts/setup.sh --tests puts the server of a wheel of this version."""
    return VENV / "servers" / wheel / PROGRAM


#: What `make serve` fetches into .venv itself, unless the machine has a server of its own.
NEWEST = next(VENV.glob(f"lib/python3*/site-packages/{PROGRAM}"), program_of("0.7.0"))

SERVERS = {"2.41.0": program_of("0.5.0"), "2.44.0": program_of("0.5.5"), "2.51.0": NEWEST}
if find_tritonserver().resolve() != NEWEST.resolve():
    SERVERS["default"] = find_tritonserver()


def library_of(version):
    """The libtritonserver of a server, whatever its file is called there."""
    program = SERVERS[version]
    folders = [program.parents[3] / "nvidia_pytriton.libs", program.parents[1] / "lib"]
    found = [library for folder in folders for library in folder.glob("libtritonserver*.so")]
    assert len(found) == 1, found
    return found[0]
