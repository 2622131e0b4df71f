#!/usr/bin/env python3
"""Compiles every module of kernels for every target and writes the pack that the crate embeds.

    python3 -m venv venv && venv/bin/pip install nvidia-cuda-nvrtc-cu12==12.9.86
    venv/bin/python glm-kernels/cuda/build_pack.py            # writes glm-kernels/cuda/pack
    venv/bin/python glm-kernels/cuda/build_pack.py --check    # rebuilds, writes nothing, fails on any difference

What was built from the same source before is kept, so that a change of one module takes seconds; `--check` builds everything.
No graphics processor, driver or CUDA toolkit is needed: NVRTC is a library on PyPI. Its output is the same on every machine, so
a difference means that sources and pack do not belong together. A kernel that spills registers, or takes more than leave room
for as many blocks as its `__launch_bounds__(threads, blocks)` wants on a multiprocessor, is an error in both modes.

The pack is one deflated cubin per module and target, and PTX for devices that no target covers; `images.rs`, which the crate
includes; and `manifest.json`, which says what each kernel takes of a device.
"""

import argparse
import concurrent.futures
import ctypes
import hashlib
import importlib.util
import json
import re
import sys
import zlib
from pathlib import Path

VERSION = (12, 9)
PACKAGE = "nvidia-cuda-nvrtc-cu12==12.9.86"
OPTIONS = ["--std=c++17"]
CUBINS = ["sm_80", "sm_89", "sm_90a", "sm_100a", "sm_120a"]
PTX = "compute_80"
LIMIT = 6 << 20
REGISTERS = 65536  # of a multiprocessor

CRATE = Path(__file__).resolve().parent.parent
PACK = CRATE / "cuda" / "pack"
MODULE = re.compile(r'"(\w+)"\s*=\s*\[([^\]]*)\](?:\s*on\s*\[([^\]]*)\])?')


def modules():
    """Name, files and targets of each module, from the list that the crate is compiled with."""
    text = (CRATE / "src/cuda/sources.rs").read_text()
    text = text[text.index("= modules![") :]
    strings = lambda part: re.findall(r'"([^"]+)"', part)
    found = {}
    for name, files, targets in MODULE.findall(text[: text.index("];")]):
        found[name] = (strings(files), strings(targets) or CUBINS + [PTX])
    return found


def source(files):
    """What is compiled, as `Module::source` of sources.rs puts it together."""
    parts = []
    for path in ["cuda/prelude.cu", *files]:
        parts.append(f'#line 1 "{path}"\n' + (CRATE / "src" / path).read_text())
    return "\n".join(parts)


def fingerprint(text):
    """As `Module::fingerprint` of sources.rs."""
    return hashlib.sha256("\n".join([*OPTIONS, text]).encode()).hexdigest()


class Nvrtc:
    """The compiler, through ctypes."""

    def __init__(self):
        spec = importlib.util.find_spec("nvidia.cuda_nvrtc")
        if spec is None:
            sys.exit(f"NVRTC is missing: pip install {PACKAGE}")
        library = Path(list(spec.submodule_search_locations)[0]) / "lib" / "libnvrtc.so.12"
        self.library = ctypes.CDLL(str(library))
        major, minor = ctypes.c_int(), ctypes.c_int()
        self.library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
        if (major.value, minor.value) != VERSION:
            sys.exit(f"NVRTC {major.value}.{minor.value} was found: pip install {PACKAGE}")

    def compile(self, name, text, target):
        """The image, its PTX and what the compiler says."""
        program = ctypes.c_void_p()
        self.library.nvrtcCreateProgram(ctypes.byref(program), text.encode(), f"{name}.cu".encode(), 0, None, None)
        options = [f"--gpu-architecture={target}", *OPTIONS, "--ptxas-options=-v"]
        options = [option.encode() for option in options]
        failed = self.library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
        log = self._read("ProgramLog", program).rstrip(b"\0").decode()
        if failed:
            raise ValueError(f"{name} for {target}:\n{log}")
        ptx = self._read("PTX", program)
        image = ptx if target == PTX else self._read("CUBIN", program)
        self.library.nvrtcDestroyProgram(ctypes.byref(program))
        return image, ptx.decode(), log

    def _read(self, what, program):
        size = ctypes.c_size_t()
        getattr(self.library, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        getattr(self.library, f"nvrtcGet{what}")(program, buffer)
        return buffer.raw


def usage(log, ptx):
    """What each kernel takes, from the assembler's remarks, and its launch bounds."""
    kernels, name = {}, None
    for line in log.splitlines():
        if entry := re.search(r"Compiling entry function '(\w+)'", line):
            name = entry[1]
            kernels[name] = {}
        elif name and (spills := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line)):
            kernels[name].update(zip(["stack", "spill_stores", "spill_loads"], map(int, spills.groups())))
        elif name and (used := re.search(r"Used (\d+) registers", line)):
            shared = re.search(r"(\d+) bytes smem", line)
            kernels[name].update(registers=int(used[1]), shared=int(shared[1]) if shared else 0)
            name = None
    for name, directives in re.findall(r"\.entry (\w+)\([^)]*\)([^{]*)\{", ptx):
        bounds = dict(re.findall(r"\.(maxntid|minnctapersm) (\d+)", directives))
        if name in kernels:
            kernels[name].update(threads=int(bounds.get("maxntid", 0)), blocks=int(bounds.get("minnctapersm", 0)))
    return kernels


def complaints(kernel, target, taken):
    """What is wrong with what a kernel takes."""
    if taken["spill_stores"] or taken["spill_loads"]:
        yield f"{kernel} for {target} spills registers: {taken}"
    if not taken["threads"] or not taken["blocks"]:
        yield f"{kernel} for {target} does not say how many threads and blocks it wants: __launch_bounds__(threads, blocks)"
    elif taken["registers"] > (budget := REGISTERS // (taken["threads"] * taken["blocks"]) // 8 * 8):
        yield f"{kernel} for {target} takes {taken['registers']} registers, more than {budget}"


def path_of(name, target):
    """Where an image lies in the pack."""
    return f"{target}/{name}.{'ptx' if target == PTX else 'cubin'}.z"


def build(job):
    """One module for one target; runs in a process of its own."""
    name, files, target, kept = job
    if kept:
        return name, target, stored(PACK / path_of(name, target)), kept["kernels"]
    image, ptx, log = Nvrtc().compile(name, source(files), target)
    # The assembler says so where products of tensor cores would wait for each other, and goes on.
    if "serialized" in log:
        raise ValueError(f"{name} for {target} computes one product after the other:\n{log}")
    return name, target, image, usage(log, ptx)


def kept(name, files, target):
    """What the manifest says of an image, if it is there and was built from this very source."""
    manifest, path = PACK / "manifest.json", PACK / path_of(name, target)
    if not manifest.exists() or not path.exists():
        return None
    manifest = json.loads(manifest.read_text())
    module = manifest["modules"].get(name, {})
    entry = module.get("targets", {}).get(target)
    same = manifest["nvrtc"] == PACKAGE and module.get("sha256") == fingerprint(source(files))
    return entry if same and entry and hashlib.sha256(stored(path)).hexdigest() == entry["sha256"] else None


def build_all(everything):
    """Files of the pack by name, and what is wrong with them."""
    found = modules()
    jobs = [
        (name, files, target, None if everything else kept(name, files, target))
        for name, (files, targets) in found.items()
        for target in targets
    ]
    files, wrong, rows = {}, [], []
    manifest = {"nvrtc": PACKAGE, "options": OPTIONS, "modules": {}}
    for name, (parts, _) in found.items():
        manifest["modules"][name] = {"files": parts, "sha256": fingerprint(source(parts)), "targets": {}}
    with concurrent.futures.ProcessPoolExecutor() as pool:
        for name, target, image, kernels in pool.map(build, jobs):
            module = manifest["modules"][name]
            module["targets"][target] = {"sha256": hashlib.sha256(image).hexdigest(), "bytes": len(image), "kernels": kernels}
            path = path_of(name, target)
            files[path] = image
            rows.append((name, target, module["sha256"], len(image), path))
            for kernel, taken in kernels.items():
                wrong.extend(complaints(kernel, target, taken))
    lines = [
        f'    Image {{ module: "{name}", target: "{target}", source: "{source}", bytes: {size}, packed: include_bytes!("{path}") }},'
        for name, target, source, size, path in rows
    ]
    header = "// Written by cuda/build_pack.py.\n"
    files["images.rs"] = (header + "[\n" + "\n".join(lines) + "\n]\n").encode()
    files["manifest.json"] = (json.dumps(manifest, indent=1) + "\n").encode()
    return files, wrong


def stored(path):
    """A file of the pack as it was before it was deflated."""
    data = path.read_bytes()
    return zlib.decompress(data) if path.suffix == ".z" else data


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, fail on a difference")
    check = parser.parse_args().check
    files, wrong = build_all(everything=check)
    there = {str(path.relative_to(PACK)) for path in PACK.rglob("*") if path.is_file()}
    for path in sorted(there - files.keys()):
        if check:
            wrong.append(f"{path} belongs to no module")
        else:
            (PACK / path).unlink()
    for name, data in files.items():
        path = PACK / name
        if check:
            if not path.exists() or stored(path) != data:
                wrong.append(f"{name} is not what the sources give: run cuda/build_pack.py")
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(zlib.compress(data, 9) if path.suffix == ".z" else data)
    size = sum(path.stat().st_size for path in PACK.rglob("*") if path.is_file())
    if size > LIMIT:
        wrong.append(f"the pack takes {size} bytes, more than {LIMIT}")
    print(f"{len(files)} files, {size / 2**20:.2f} MiB")
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
