# SPDX-License-Identifier: Apache-2.0
"""The recipes of docs/python.md and the examples, in a folder of their own."""
import doctest
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

from support import PYTHON_ENVIRONMENT, ROOT, TINY

try:
    import torch  # noqa: F401
except ImportError:
    torch = None


class Documentation(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(folder.name)
        os.symlink(TINY, "nfloat-tiny")

    def test_recipes(self):
        text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
        if torch is None:
            text = text[: text.index("### 9.")]
        self.assertGreaterEqual(text.count("### "), 8)
        test = doctest.DocTestParser().get_doctest(text, {}, "docs/python.md", "docs/python.md", 0)
        runner = doctest.DocTestRunner()
        runner.run(test)
        self.assertEqual(runner.summarize().failed, 0)

    def test_examples(self):
        files = sorted((ROOT / "examples" / "python").glob("*.py"))
        self.assertTrue(files)
        for file in files:
            with self.subTest(file=file.name):
                done = subprocess.run(
                    [sys.executable, "-W", "error::ResourceWarning", file, "nfloat-tiny"],
                    capture_output=True,
                    text=True,
                    env=PYTHON_ENVIRONMENT,
                )
                if done.returncode == 77:
                    print(f"{file.name}: skipped, {done.stdout.strip()}")
                    continue
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertTrue(done.stdout)


if __name__ == "__main__":
    unittest.main()
