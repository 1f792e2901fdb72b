"""Reads object code for what an AMX configuration is loaded from.

Some versions of GCC drop stores to it (see include/compiler/amxtileintrin.h): the tiles have no rows then, and the
first product ends the process. No machine with AMX is needed to see it.
"""

import re
import subprocess

# Of a configuration's 64 bytes: the palette, the bytes of a row for each of 8 tiles (two bytes each), their rows.
NEEDED = [0, *range(16, 32, 2), *range(48, 56)]
N_BYTES = 64
SIZES = {"zmm": 64, "ymm": 32, "xmm": 16}
SUFFIXES = {"b": 1, "w": 2, "l": 4, "q": 8}
# Instructions before the load that may write what it reads.
N_BEFORE = 60

INSTRUCTION = re.compile(r"^\s+[0-9a-f]+:\s+(\S+)\s*(.*?)\s*(?:#.*|<.*)?$")
PLACE = re.compile(r"^(-?0x[0-9a-f]+|)\((%\w+)\)$")


def operands(text):
    """Split at commas outside parentheses."""
    return [part.strip() for part in re.split(r",(?![^(]*\))", text)]


def faults(listing):
    """Of a listing by objdump: how many loads of a configuration there are, and what is wrong with each that is."""
    lines = [match.groups() for match in map(INSTRUCTION.match, listing.splitlines()) if match]
    loads = [index for index, (name, _) in enumerate(lines) if name == "ldtilecfg"]
    found = []
    for index in loads:
        place = PLACE.match(lines[index][1])
        wrong = "reads from no place of a fixed distance to a register" if place is None else None
        wrong = wrong or missing(lines[max(0, index - N_BEFORE) : index], int(place[1] or "0", 16), place[2])
        if wrong:
            found.append(wrong)
    return len(loads), found


def missing(before, begin, base):
    """Which bytes from `begin` bytes after `base` on were not written, or only with the zeros that came first."""
    state = ["unwritten"] * N_BYTES
    zeros = set()
    for name, text in before:
        parts = operands(text)
        target = parts[-1]
        place = PLACE.match(target)
        if place is None:
            is_zero = name.lstrip("v") in ("pxor", "pxord", "pxorq", "xorps", "xorpd") and len(set(parts[:2])) == 1
            number = re.match(r"%[xyz]mm(\d+)$", target)
            if number:
                (zeros.add if is_zero else zeros.discard)(number[1])
            continue
        if place[2] != base or not name.lstrip("v").startswith("mov"):
            continue
        source = re.match(r"%([xyz]mm)(\d+)$", parts[0])
        if source:
            n_bytes, is_zero = SIZES[source[1]], source[2] in zeros
        else:
            n_bytes, is_zero = size_of(name, parts[0]), parts[0] == "$0x0"
        offset = int(place[1] or "0", 16) - begin
        for byte in range(max(offset, 0), min(offset + n_bytes, N_BYTES)):
            state[byte] = "zero" if is_zero else "written"
    if "unwritten" in state:
        return f"bytes {[n for n, what in enumerate(state) if what == 'unwritten']} are whatever was there"
    empty = [n for n in NEEDED if state[n] == "zero"]
    return f"bytes {empty} are zero" if empty else None


def size_of(name, source):
    """Bytes that a move of a number, or of a register without a vector, writes."""
    if source.startswith("$"):
        return SUFFIXES[name[-1]]
    if re.match(r"%(r\w+[a-z]|r\d+)$", source):
        return 8
    if re.match(r"%(e\w+|r\d+d)$", source):
        return 4
    return 2 if re.match(r"%(\w[xip]|r\d+w)$", source) else 1


def of_file(path):
    listing = subprocess.run(["objdump", "-d", "--no-show-raw-insn", path], capture_output=True, text=True, check=True)
    return faults(listing.stdout)
