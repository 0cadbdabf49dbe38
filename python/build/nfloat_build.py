# SPDX-License-Identifier: Apache-2.0
"""PEP 517 and 660 backend, in the tree and with the standard library alone: CMake builds, this packs the wheel.

Settings (`pip install --config-settings NAME=VALUE`, or the environment):
  build-dir, NFLOAT_BUILD_DIR   an existing CMake build of this tree with NFLOAT_BUILD_PYTHON=ON, built further and
                                used; else one of its own: build/wheel, or below the user's cache where this tree
                                cannot be written
  jobs, NFLOAT_JOBS             parallel compilers; else what CMake's generator chooses
"""
from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
import pathlib
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import tomllib
import zipfile
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[2]
EPOCH = (1980, 1, 1, 0, 0, 0)


def _version() -> str:
    text = (ROOT / "include/nfloat/version.h").read_text(encoding="utf-8")
    found = re.search(r'#define NFLOAT_VERSION_STRING "([^"]+)"', text)
    if found is None:
        raise SystemExit("include/nfloat/version.h does not say the version")
    return found[1]


def _project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def _setting(settings: dict[str, Any] | None, name: str, variable: str) -> str:
    return str((settings or {}).get(name) or os.environ.get(variable, ""))


def _run(*command: str | pathlib.Path) -> None:
    try:
        subprocess.run([str(word) for word in command], check=True, cwd=ROOT, stdout=sys.stderr)
    except FileNotFoundError:
        raise SystemExit(f"{command[0]} is missing: CMake 3.25 and a C++20 compiler build nfloat") from None


def _writable(folder: pathlib.Path) -> bool:
    """Whether the folder, or the nearest one above it that exists, is ours to write."""
    while not folder.exists():
        folder = folder.parent
    return os.access(folder, os.W_OK | os.X_OK)


def _own_folder() -> pathlib.Path:
    own = ROOT / "build" / "wheel"
    cache = own / "CMakeCache.txt"
    if _writable(own) and (not cache.exists() or os.access(cache, os.W_OK)):
        return own
    home = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    if not _writable(home):
        home = pathlib.Path(tempfile.gettempdir()) / f"nfloat-{os.getuid()}"
        home.mkdir(mode=0o700, exist_ok=True)
        made = home.lstat()
        if not stat.S_ISDIR(made.st_mode) or made.st_uid != os.getuid() or made.st_mode & 0o022:
            raise SystemExit(f"{home} is not a folder that only this user writes: set NFLOAT_BUILD_DIR")
    return home / "nfloat" / ("wheel-" + hashlib.sha256(os.fsencode(ROOT)).hexdigest()[:16])


def _source_of(folder: pathlib.Path) -> pathlib.Path | None:
    """The tree that a build folder builds; None for an empty one."""
    cache = folder / "CMakeCache.txt"
    if not cache.exists():
        return None
    found = re.search(r"^CMAKE_HOME_DIRECTORY:INTERNAL=(.*)$", cache.read_text(encoding="utf-8"), re.MULTILINE)
    return pathlib.Path(found[1]) if found else None


def _build(settings: dict[str, Any] | None) -> pathlib.Path:
    """Builds the extension and the tool; the build folder."""
    given = _setting(settings, "build-dir", "NFLOAT_BUILD_DIR")
    folder = pathlib.Path(given).resolve() if given else _own_folder()
    source = _source_of(folder)
    moved = source is not None and source != ROOT
    if moved and given:
        raise SystemExit(f"{folder} is the build folder of {source}, not of {ROOT}")
    if moved:  # this tree was copied or renamed with it
        shutil.rmtree(folder)
    if source is None or not given:
        generator = ["-G", "Ninja"] if shutil.which("ninja") and not (folder / "CMakeCache.txt").exists() else []
        _run(
            "cmake", "-S", ROOT, "-B", folder, *generator, "-DCMAKE_BUILD_TYPE=Release", "-DNFLOAT_BUILD_PYTHON=ON",
            "-DNFLOAT_BUILD_TESTS=OFF", "-DNFLOAT_BUILD_EXAMPLES=OFF", "-DNFLOAT_ROOM_UNITS=ON", "-DNFLOAT_CLI_OPTIONS=-O1",
            f"-DPython3_EXECUTABLE={sys.executable}",
        )  # fmt: skip
    jobs = _setting(settings, "jobs", "NFLOAT_JOBS")
    _run("cmake", "--build", folder, "--target", "nfloat_python", "nfloat_cli", "--parallel", *([jobs] if jobs else []))
    return folder


def _tag() -> str:
    return "cp311-abi3-" + re.sub(r"[-.]", "_", sysconfig.get_platform())


def _metadata() -> str:
    project = _project()
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {project['name']}",
        f"Version: {_version()}",
        f"Summary: {project['description']}",
        f"License: {project['license']['text']}",
        f"Requires-Python: {project['requires-python']}",
        *(f"Requires-Dist: {one}" for one in project["dependencies"]),
        "Description-Content-Type: text/markdown",
        "",
        (ROOT / "docs/python.md").read_text(encoding="utf-8") if (ROOT / "docs/python.md").exists() else "",
    ]
    return "\n".join(lines)


def _wheel_file() -> str:
    return f"Wheel-Version: 1.0\nGenerator: nfloat_build\nRoot-Is-Purelib: false\nTag: {_tag()}\n"


class _Wheel:
    """A zip whose bytes depend on its files alone."""

    def __init__(self, path: pathlib.Path) -> None:
        self.info = f"nfloat-{_version()}.dist-info"
        self.zip = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED)
        self.records: list[tuple[str, str, int]] = []

    def add(self, name: str, data: bytes, executable: bool = False) -> None:
        entry = zipfile.ZipInfo(name, EPOCH)
        entry.compress_type = zipfile.ZIP_DEFLATED
        entry.external_attr = (stat.S_IFREG | (0o755 if executable else 0o644)) << 16
        self.zip.writestr(entry, data)
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        self.records.append((name, f"sha256={digest}", len(data)))

    def finish(self) -> None:
        self.add(f"{self.info}/METADATA", _metadata().encode())
        self.add(f"{self.info}/WHEEL", _wheel_file().encode())
        self.add(f"{self.info}/LICENSE", (ROOT / "LICENSE").read_bytes())
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([*self.records, (f"{self.info}/RECORD", "", "")])
        entry = zipfile.ZipInfo(f"{self.info}/RECORD", EPOCH)
        entry.external_attr = (stat.S_IFREG | 0o644) << 16
        self.zip.writestr(entry, text.getvalue())
        self.zip.close()


def _stripped(path: pathlib.Path) -> bytes:
    """Without symbols, where there is a strip."""
    if shutil.which("strip") is None:
        return path.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder) / path.name
        subprocess.run(["strip", "--strip-unneeded", "-o", copy, path], check=True)
        return copy.read_bytes()


def _make(folder: str, settings: dict[str, Any] | None, editable: bool) -> str:
    build = _build(settings)
    name = f"nfloat-{_version()}-{_tag()}.whl"
    wheel = _Wheel(pathlib.Path(folder) / name)
    if editable:
        # The package as it lies in the build folder: the next build renews it.
        wheel.add("__editable__nfloat.pth", f"{build / 'python'}\n".encode())
    else:
        for file in sorted((ROOT / "python/nfloat").iterdir()):
            if file.suffix in (".py", ".pyi") or file.name == "py.typed":
                wheel.add(f"nfloat/{file.name}", file.read_bytes())
        wheel.add("nfloat/_core.abi3.so", _stripped(build / "python/nfloat/_core.abi3.so"), executable=True)
    wheel.add(f"nfloat-{_version()}.data/scripts/nfloat", _stripped(build / "bin/nfloat"), executable=True)
    wheel.finish()
    return name


def get_requires_for_build_wheel(config_settings: dict[str, Any] | None = None) -> list[str]:
    return []


get_requires_for_build_sdist = get_requires_for_build_wheel
get_requires_for_build_editable = get_requires_for_build_wheel


def build_wheel(
    wheel_directory: str, config_settings: dict[str, Any] | None = None, metadata_directory: str | None = None
) -> str:
    return _make(wheel_directory, config_settings, editable=False)


def build_editable(
    wheel_directory: str, config_settings: dict[str, Any] | None = None, metadata_directory: str | None = None
) -> str:
    return _make(wheel_directory, config_settings, editable=True)


def _source_files() -> list[str]:
    """Those of the repository, or of an unpacked archive."""
    if (ROOT / ".git").exists() and shutil.which("git"):
        listed = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], capture_output=True)
        if listed.returncode == 0:  # git refuses the repositories of other users
            return sorted(name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file())
    parts = ["src", "include", "cli", "cmake", "python", "docs"]
    names = [str(p.relative_to(ROOT)) for part in parts for p in (ROOT / part).rglob("*") if p.is_file()]
    names += [p.name for p in ROOT.iterdir() if p.is_file() and p.name != "PKG-INFO"]
    return sorted(name for name in names if "__pycache__" not in name)


def build_sdist(sdist_directory: str, config_settings: dict[str, Any] | None = None) -> str:
    base = f"nfloat-{_version()}"
    wanted = ("src/", "include/", "cli/", "cmake/", "python/", "docs/")
    with tarfile.open(pathlib.Path(sdist_directory) / f"{base}.tar.gz", "w:gz", format=tarfile.PAX_FORMAT) as archive:

        def add(name: str, data: bytes, mode: int = 0o644) -> None:
            entry = tarfile.TarInfo(f"{base}/{name}")
            entry.size, entry.mode = len(data), mode
            archive.addfile(entry, io.BytesIO(data))

        add("PKG-INFO", _metadata().encode())
        for name in _source_files():
            if name.startswith(wanted) or "/" not in name:
                path = ROOT / name
                add(name, path.read_bytes(), 0o755 if os.access(path, os.X_OK) else 0o644)
    return f"{base}.tar.gz"
