# SPDX-License-Identifier: Apache-2.0
"""The build backend: where it builds when the tree was copied, renamed or cannot be written; its archives."""
import importlib.util
import os
import pathlib
import shutil
import tarfile
import tempfile
import unittest
import zipfile
from unittest import mock

from support import ROOT


class Backend(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name).resolve()

    def tree(self, name):
        """A tree with what the backend itself reads, and the backend as that tree has it; CMake leaves empty programs."""
        tree = self.folder / name
        for file in ("python/build/nfloat_build.py", "include/nfloat/version.h", "pyproject.toml", "LICENSE", "python/nfloat/__init__.py"):
            (tree / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, tree / file)
        return tree

    def backend(self, tree):
        spec = importlib.util.spec_from_file_location("nfloat_build", tree / "python/build/nfloat_build.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self.calls = []

        def run(*command):
            self.calls.append([str(word) for word in command])
            if "-B" not in command:
                return
            build = pathlib.Path(command[command.index("-B") + 1])
            for file in ("python/nfloat/_core.abi3.so", "bin/nfloat"):
                (build / file).parent.mkdir(parents=True, exist_ok=True)
                (build / file).write_bytes(b"")
            (build / "CMakeCache.txt").write_text(f"CMAKE_HOME_DIRECTORY:INTERNAL={tree}\n")

        module._run = run
        module._stripped = pathlib.Path.read_bytes
        return module

    def environment(self, **variables):
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("NFLOAT_", "XDG_"))}
        patch = mock.patch.dict(os.environ, {**kept, **variables}, clear=True)
        patch.start()
        self.addCleanup(patch.stop)

    def test_a_build_folder_of_its_own(self):
        self.environment()
        tree = self.tree("tree")
        (self.folder / "out").mkdir()
        name = self.backend(tree).build_wheel(str(self.folder / "out"))
        self.assertTrue((tree / "build/wheel/CMakeCache.txt").exists())
        with zipfile.ZipFile(self.folder / "out" / name) as wheel:
            self.assertIn("nfloat/_core.abi3.so", wheel.namelist())
            self.assertEqual({entry.date_time[0] for entry in wheel.infolist()}, {1980})
        # Renamed with its build folder: CMake would refuse that one.
        tree.rename(self.folder / "renamed")
        marker = self.folder / "renamed/build/wheel/marker"
        marker.touch()
        backend = self.backend(self.folder / "renamed")
        again = backend.build_wheel(str(self.folder / "out"))
        self.assertFalse(marker.exists())
        self.assertEqual(again, name)

    def test_a_tree_that_cannot_be_written(self):
        self.environment(XDG_CACHE_HOME=str(self.folder / "cache"))
        tree = self.tree("tree")
        backend = self.backend(tree)
        allowed = os.access

        def access(path, mode):
            return not (mode & os.W_OK and pathlib.Path(path).is_relative_to(tree)) and allowed(path, mode)

        with mock.patch.object(backend.os, "access", access):
            backend.build_wheel(str(self.folder))
        self.assertFalse((tree / "build").exists())
        self.assertEqual(len(list((self.folder / "cache/nfloat").glob("wheel-*"))), 1)

    def test_the_folder_of_another_tree_is_refused(self):
        tree, other = self.tree("tree"), self.tree("other")
        self.environment(NFLOAT_BUILD_DIR=str(other / "build/wheel"))
        self.backend(other).build_wheel(str(self.folder))
        with self.assertRaisesRegex(SystemExit, "is the build folder of"):
            self.backend(tree).build_wheel(str(self.folder))

    def test_an_archive_without_git(self):
        tree = self.tree("tree")
        (tree / ".git").mkdir()  # as git refuses another user's: no repository that it would read
        name = self.backend(tree).build_sdist(str(self.folder))
        with tarfile.open(self.folder / name) as archive:
            files = {pathlib.Path(*pathlib.Path(entry).parts[1:]).as_posix() for entry in archive.getnames()}
        self.assertLessEqual({"python/build/nfloat_build.py", "pyproject.toml", "PKG-INFO"}, files)


if __name__ == "__main__":
    unittest.main()
