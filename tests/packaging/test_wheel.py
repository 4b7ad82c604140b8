# SPDX-License-Identifier: Apache-2.0
"""What the wheel and the source archive hold: the packages, typed, with their native modules, and nothing else.

The wheel is the one that `make wheel-test` builds into build/dist.
"""

import os
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("loader", "triton_kernels", "trainer")


@pytest.fixture(scope="module")
def wheel() -> zipfile.ZipFile:
    wheels = sorted((ROOT / "build" / "dist").glob("moot-*.whl"))
    if not wheels:
        pytest.skip("no wheel in build/dist: `make wheel-test` builds one")
    with zipfile.ZipFile(wheels[-1]) as archive:
        yield archive


def read(wheel: zipfile.ZipFile, name: str) -> str:
    return wheel.read(next(path for path in wheel.namelist() if path.endswith(name))).decode()


def test_top_level_is_the_namespace_and_its_metadata(wheel):
    tops = {PurePosixPath(name).parts[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"moot"}
    assert {PurePosixPath(name).parts[1] for name in wheel.namelist() if name.startswith("moot/")} == set(PACKAGES)
    assert "moot/__init__.py" not in wheel.namelist()


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_is_typed(wheel, package):
    assert f"moot/{package}/py.typed" in wheel.namelist()


@pytest.mark.parametrize(("folder", "module"), [("loader", "_core"), ("triton_kernels", "_native")])
def test_native_modules_lie_in_their_packages_with_their_stubs(wheel, folder, module):
    binaries = [name for name in wheel.namelist() if name.startswith(f"moot/{folder}/{module}.") and name.endswith(".so")]
    assert len(binaries) == 1
    assert wheel.read(f"moot/{folder}/{module}.pyi") == (ROOT / folder / f"{module}.pyi").read_bytes()


def test_every_source_file_and_template_is_there(wheel):
    suffixes = (".py", ".pyi", ".html")
    ours = {
        f"moot/{path.relative_to(ROOT).as_posix()}"
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.suffix in suffixes
    }
    packed = {name for name in wheel.namelist() if name.startswith("moot/") and name.endswith(suffixes)}
    assert packed == ours
    assert any(name.startswith("moot/trainer/report/") and name.endswith(".html") for name in packed)


def test_nothing_else_is_packed(wheel):
    allowed = {".py", ".pyi", ".html", ".so", ".typed"}
    assert {PurePosixPath(name).suffix for name in wheel.namelist() if name.startswith("moot/")} <= allowed


def test_metadata_names_licence_extras_and_command(wheel):
    metadata = Parser().parsestr(read(wheel, ".dist-info/METADATA"))
    assert metadata["License-Expression"] == "Apache-2.0"
    assert set(metadata.get_all("Provides-Extra")) == {"mosaic", "train", "report", "label", "bench", "test"}
    assert "moot = moot.trainer.cli:main" in read(wheel, ".dist-info/entry_points.txt")
    assert any(name.endswith("licenses/LICENSE") for name in wheel.namelist())


def test_source_archive_can_be_built_from(tmp_path):
    code = "import sys; from scikit_build_core.build import build_sdist; print(build_sdist(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=True, capture_output=True, timeout=120)
    with tarfile.open(next(tmp_path.glob("moot-*.tar.gz"))) as archive:
        names = {os.path.join(*Path(member.name).parts[1:]) for member in archive if member.isfile()}
    assert {"CMakeLists.txt", "pyproject.toml", "LICENSE", "README.md", "loader/py.typed"} <= names
    assert {path.relative_to(ROOT).as_posix() for path in (ROOT / "csrc").rglob("*.cpp")} <= names
    assert not [name for name in names if name.startswith(("build/", "runs/", ".venv/", ".ci/"))]
