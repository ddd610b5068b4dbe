import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parent.parent
NOT_BUILT = shutil.ignore_patterns("__pycache__", "*.egg-info")


@pytest.mark.slow
def test_the_wheel_holds_the_whole_package_and_nothing_beside_it(tmp_path):
    source = tmp_path / "source"  # a copy: a build leaves files, and takes those of the last one
    for folder in ("celsa_jax", "experiments", "tests"):
        shutil.copytree(ROOT / folder, source / folder, ignore=NOT_BUILT)
    for name in ("pyproject.toml", "setup.cfg", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    package = source / "celsa_jax"
    files = {p.relative_to(source).as_posix() for p in package.rglob("*") if p.is_file()}
    assert "celsa_jax/py.typed" in files
    assert {pathlib.PurePath(name).suffix for name in files} == {".py", ".typed", ".jinja", ".csv"}

    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps"]
    command += ["--no-build-isolation", "--wheel-dir", tmp_path, source]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("celsa_jax-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    described = {name for name in names if name.split("/")[0].endswith(".dist-info")}
    assert names - described == files
    assert any(name.endswith("/LICENSE") for name in described)
