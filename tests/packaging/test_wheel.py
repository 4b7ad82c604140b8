# SPDX-License-Identifier: Apache-2.0
"""The wheel and the source archive: our packages, typed, with native modules, and nothing else.

The wheel is the one that `make wheel-test` builds into build/dist.
"""

import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("loader", "triton_kernels", "trainer")
SUFFIXES = {".py", ".pyi", ".j2"}  # sources and templates, packed as they are


@pytest.fixture(scope="module")
def wheel() -> Iterator[zipfile.ZipFile]:
    wheels = sorted((ROOT / "build" / "dist").glob("moot-*.whl"))
    sources = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    newest = max(path.stat().st_mtime for path in sources)
    if not wheels or wheels[-1].stat().st_mtime < newest:
        pytest.skip("no wheel of these sources in build/dist: `make wheel-test` builds it")
    with zipfile.ZipFile(wheels[-1]) as archive:
        yield archive


@pytest.fixture(scope="module")
def packed(wheel) -> set[Path]:
    """Paths below `moot/`."""
    paths = [Path(name) for name in wheel.namelist()]
    assert {path.parts[0] for path in paths if path.parts[0] != "moot"} == {"moot-0.1.0.dist-info"}
    return {path.relative_to("moot") for path in paths if path.parts[0] == "moot"}


def metadata(wheel: zipfile.ZipFile, name: str) -> str:
    return wheel.read(f"moot-0.1.0.dist-info/{name}").decode()


def test_the_namespace_holds_three_typed_packages(packed):
    assert {path.parts[0] for path in packed} == set(PACKAGES)
    assert {Path(package, "py.typed") for package in PACKAGES} <= packed


@pytest.mark.parametrize(("folder", "module"), [("loader", "_core"), ("triton_kernels", "_native")])
def test_a_native_module_lies_beside_its_stub(wheel, packed, folder, module):
    binaries = [path for path in packed if path.suffix == ".so" and path.name.startswith(module)]
    assert [path.parent for path in binaries] == [Path(folder)]
    stub = f"{folder}/{module}.pyi"
    assert wheel.read(f"moot/{stub}") == (ROOT / stub).read_bytes()


def test_every_source_and_template_is_packed_and_nothing_else(packed):
    ours = {
        path.relative_to(ROOT)
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.suffix in SUFFIXES
    }
    assert any(path.suffix == ".j2" for path in ours)
    assert {path for path in packed if path.suffix in SUFFIXES} == ours
    assert {path.suffix for path in packed} <= {*SUFFIXES, ".so", ".typed"}


def test_metadata_names_licence_extras_and_command(wheel):
    fields = Parser().parsestr(metadata(wheel, "METADATA"))
    assert fields["License-Expression"] == "Apache-2.0"
    extras = {"mosaic", "train", "report", "label", "bench", "test"}
    assert set(fields.get_all("Provides-Extra")) == extras
    assert "moot = moot.trainer.cli:main" in metadata(wheel, "entry_points.txt")
    assert metadata(wheel, "licenses/LICENSE") == (ROOT / "LICENSE").read_text()


def test_source_archive_holds_what_a_build_needs(tmp_path):
    code = "import sys, scikit_build_core.build as b; b.build_sdist(sys.argv[1])"
    command = [sys.executable, "-c", code, str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    with tarfile.open(next(tmp_path.glob("moot-*.tar.gz"))) as archive:
        names = {Path(*Path(member.name).parts[1:]) for member in archive if member.isfile()}
    needed = ["CMakeLists.txt", "pyproject.toml", "LICENSE", "README.md", "loader/py.typed"]
    assert {Path(name) for name in needed} <= names
    assert {path.relative_to(ROOT) for path in (ROOT / "csrc").rglob("*.cpp")} <= names
    unwanted = {"build", "dist", "runs", ".venv", ".types", ".ci"}
    assert not {name for name in names if name.parts[0] in unwanted}
