import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def lock():
    lines = (ROOT / ".requirements.lock").read_text().splitlines()
    return {r.name.lower(): r for r in (Requirement(line) for line in lines if "==" in line)}


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_lock_satisfies_every_range(lock, project):
    wanted = [
        *project["dependencies"],
        *(r for extra in project["optional-dependencies"].values() for r in extra),
    ]
    for text in wanted:
        requirement = Requirement(text)
        pinned = next(iter(lock[requirement.name.lower()].specifier)).version
        assert Version(pinned) in requirement.specifier, text


def test_the_conda_environment_has_the_same_pins(lock):
    text = (ROOT / "environment.yml").read_text()
    pins = {r.name.lower(): str(r) for r in map(Requirement, re.findall(r"^      - (\S+==\S+)$", text, re.M))}
    assert pins == {name: str(r) for name, r in lock.items()}
    assert "-e .[book,test,paper,cluster]" in text


def test_ranges_not_pins(project):
    for text in project["dependencies"]:
        assert "==" not in text, text
    assert project["requires-python"] == ">=3.11"


def tracked():
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.split("\0") if name]


def test_the_repository_stays_light():
    sizes = {p: p.stat().st_size for p in tracked() if p.is_file()}
    assert sum(sizes.values()) < 45e6
    assert sum(s for p, s in sizes.items() if "weights" in p.parts) < 32e6
    assert sum(s for p, s in sizes.items() if p.suffix in (".ogg", ".mp3", ".wav", ".flac")) < 10e6


def test_no_file_names_a_machine_s_path():
    pattern = re.compile(rb"(?<![\w.])/(?:root|home)/\w|/work/(?:main|shared)")
    for path in tracked():
        if (
            path.suffix in (".py", ".md", ".ipynb", ".toml", ".yml", ".json", ".lock")
            and path.name != Path(__file__).name
        ):
            assert not pattern.search(path.read_bytes()), path


def test_rooms_do_not_import_what_lies_above_them():
    """Data flows one way (design): losses and diffusion know torch, each other and how errors are told."""
    for name, allowed in {"diffusion": set(), "losses": {"diffusion", "errors"}, "classes": set()}.items():
        text = (ROOT / "src/latentclap" / f"{name}.py").read_text()
        found = set(re.findall(r"^\s*from latentclap\.(\w+)", text, re.M))
        assert found <= allowed, (name, found)
    for path in (ROOT / "src/latentclap").rglob("*.py"):
        found = set(re.findall(r"^\s*(?:from|import) latentclap\.(\w+)", path.read_text(), re.M))
        if path.stem not in ("cli", "describe", "__main__", "workflow") and "book" not in path.parts:
            assert not found & {"cli", "book"}, path
