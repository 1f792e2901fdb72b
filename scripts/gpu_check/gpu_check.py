"""Check the CUDA build, and measure it, on a machine with a GPU and nothing else of ours.

    python3 gpu_check.py [--cpu] [--minutes 9.5] [--out FOLDER] [--work FOLDER]

Takes triton-llm.tar.xz, which `make gpu-check` puts beside this file. The machine needs Python 3.9
with numpy, the libraries of CUDA 13 (libcudart, libcublas) and a driver. Correctness comes first, then
speed as far as the minutes reach: the step that still runs then is cut off, those after it are not run.
report.md and report.json are written after every step, so that a run that is ended leaves what it has.
--cpu runs the same steps on the CPU at tiny sizes, but for those that need a GPU.

Exit status: 0 if every step passed or was skipped for want of a GPU, 1 if one failed or had too little
time, 2 if the machine lacks something.
"""

import argparse
import ctypes
import os
import re
import shutil
import signal
import site
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ARCHIVE = HERE / "triton-llm.tar.xz"
CUDA_LIBRARIES = ("libcudart.so.13", "libcublas.so.13", "libcublasLt.so.13")


def main():
    arguments = parse_arguments()
    end = time.monotonic() + arguments.minutes * 60
    arguments.out.mkdir(parents=True, exist_ok=True)
    if not arguments.cpu:
        find_gpu()
        use_cuda_libraries()
    work = Path(tempfile.mkdtemp(prefix="gpu-check-", dir=arguments.work))
    # So that every `with` block and this one end what they have started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        root = unpack(work)
        sys.path.insert(0, str(root / "scripts" / "gpu_check"))
        sys.path.insert(0, str(root / "benches"))
        import steps

        return steps.run(root, arguments.out, "CPU" if arguments.cpu else "GPU", end)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cpu", action="store_true", help="run the same steps on the CPU, at tiny sizes")
    # Within ten: a server that is cut off may take twenty seconds to end.
    parser.add_argument("--minutes", type=float, default=9.5, help="when to stop (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=HERE / "report", help="where the report goes")
    parser.add_argument("--work", type=Path, default=None, help="a folder with 20 GB for models (default: the system's)")
    return parser.parse_args()


def give_up(why):
    print(f"error: {why}", file=sys.stderr)
    raise SystemExit(2)


def find_gpu():
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        give_up("no nvidia-smi: this machine has no driver (--cpu checks without a GPU)")
    if not done.stdout.startswith("GPU"):
        give_up(f"nvidia-smi lists no GPU: {(done.stdout + done.stderr).strip()}")


def use_cuda_libraries():
    """Lets every server that is started find CUDA's libraries."""
    folders = []
    for name in CUDA_LIBRARIES:
        folder = folder_of(name)
        if folder is None:
            give_up(f"no {name} in {', '.join(map(str, library_folders()))}")
        folders.append(str(folder))
    more = os.environ.get("LD_LIBRARY_PATH")
    os.environ["LD_LIBRARY_PATH"] = ":".join([*dict.fromkeys(folders), *([more] if more else [])])


def folder_of(name):
    for folder in library_folders():
        if (folder / name).exists():
            # One that is found but cannot be loaded here is none.
            try:
                ctypes.CDLL(str(folder / name), mode=ctypes.RTLD_LOCAL)
            except OSError:
                continue
            return folder
    return None


def library_folders():
    """Where CUDA's libraries may be: as installed, as the loader knows them, as pip has them."""
    named = os.environ.get("LD_LIBRARY_PATH", "").split(":")
    listed = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True).stdout if shutil.which("ldconfig") else ""
    known = [Path(path).parent for path in re.findall(r"=> (\S*/libcu\S*)", listed)]
    toolkits = sorted(Path("/usr/local").glob("cuda*/lib64"), reverse=True)
    packages = [Path(path) for path in [*sys.path, *site.getsitepackages(), site.getusersitepackages()] if path]
    wheels = [folder for path in packages for folder in sorted(path.glob("nvidia/*/lib"))]
    return list(dict.fromkeys([*(Path(name) for name in named if name), *wheels, *toolkits, *known]))


def unpack(folder):
    if not ARCHIVE.exists():
        give_up(f"no {ARCHIVE}: `make gpu-check` makes it")
    with tarfile.open(ARCHIVE) as archive:
        # Our own archive, so its links need no filter; later Pythons ask for the choice.
        archive.extractall(folder, **({"filter": "fully_trusted"} if hasattr(tarfile, "data_filter") else {}))
    return folder / "triton-llm"


if __name__ == "__main__":
    sys.exit(main())
