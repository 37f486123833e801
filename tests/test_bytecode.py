"""What ships compiled: it is used in a Lambda, and never instead of a newer source."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from spotrelay.deploying.bytecode import compile_library
from spotrelay.deploying.errors import DeployError


@pytest.fixture
def project(tmp_path: Path) -> Path:
    library = tmp_path / "chalicelib"
    (library / "core").mkdir(parents=True)
    (library / "__init__.py").touch()
    (library / "core/answer.py").write_text("def give():\n    return 1 / int('1')\n", "utf-8")
    return tmp_path


def lambda_says(project: Path, code: str) -> str:
    """As in a Lambda: other times on the files, and nothing can be written."""
    for file in project.rglob("*.py"):
        os.utime(file, (0, 0))
    command = [sys.executable, "-v", "-B", "-c", f"import chalicelib.core.answer as a; {code}"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    return done.stdout + done.stderr


def test_a_lambda_reads_the_bytecode_whatever_the_files_times_are(project: Path) -> None:
    compile_library(project)
    said = lambda_says(project, "print('answer', a.give())")
    assert "answer 1" in said
    assert "stale" not in said
    assert "answer.cpython" in said


def test_a_source_that_changed_since_is_what_counts(project: Path) -> None:
    compile_library(project)
    (project / "chalicelib/core/answer.py").write_text("def give():\n    return 2 / int('1')\n", "utf-8")
    assert "answer 2" in lambda_says(project, "print('answer', a.give())")


def test_a_traceback_names_no_folder_of_the_machine_that_deployed(project: Path) -> None:
    compile_library(project)
    (shipped,) = (project / "chalicelib/core/__pycache__").glob("answer.*.pyc")
    assert b"/var/task/chalicelib/core/answer.py" in shipped.read_bytes()
    assert str(project).encode() not in shipped.read_bytes()


def test_what_was_left_by_another_python_or_a_module_that_is_no_more_is_not_shipped(project: Path) -> None:
    old = project / "chalicelib/__pycache__"
    old.mkdir()
    (old / "gone.cpython-39.pyc").write_bytes(b"old")
    compile_library(project)
    assert not list(project.rglob("gone.*"))


def test_a_source_that_is_no_python_is_not_deployed(project: Path) -> None:
    (project / "chalicelib/broken.py").write_text("def (:\n", "utf-8")
    with pytest.raises(DeployError, match=r"broken\.py is no Python"):
        compile_library(project)


def test_the_same_sources_are_the_same_package_another_time(project: Path) -> None:
    compile_library(project)
    (shipped,) = (project / "chalicelib/core/__pycache__").glob("answer.*.pyc")
    before = shipped.stat()
    compile_library(project)
    assert shipped.stat().st_mtime_ns == before.st_mtime_ns
