import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
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


#: what another declared package brings and cannot do without: Sphinx's documents, torch's kernels
BROUGHT = {"docutils", "triton"}
#: of the fidelity fixtures' environment of its own (tests/fidelity/requirements.txt)
ELSEWHERE = {"audioldm", "frechet_audio_distance", "torchvggish", "clap_module"}


def test_what_is_imported_is_declared(project):
    """A package that comes along with another one today may not tomorrow."""
    texts = [*project["dependencies"], *(r for e in project["optional-dependencies"].values() for r in e)]
    declared = {canonicalize_name(Requirement(text).name) for text in texts}
    brings = packages_distributions()
    ours = {p.stem for folder in ("data_scripts", "tests") for p in (ROOT / folder).rglob("*")} | {
        "latentclap"
    }
    strangers = {}
    for path in (p for folder in ("src", "data_scripts", "tests") for p in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for name in {n.partition(".")[0] for n in names} - ours - BROUGHT - ELSEWHERE:
                by = {canonicalize_name(d) for d in brings.get(name, ())}
                if name not in sys.stdlib_module_names and not by & declared:
                    strangers[name] = path.relative_to(ROOT).as_posix()
    assert strangers == {}


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
    for name, allowed in {
        "diffusion": set(),
        "losses": {"diffusion", "errors"},
        "classes": {"errors"},
    }.items():
        file = ROOT / "src/latentclap" / f"{name}.py"
        paths = [file] if file.is_file() else sorted(file.with_suffix("").rglob("*.py"))
        assert paths, name
        found = {m for p in paths for m in re.findall(r"^\s*from latentclap\.(\w+)", p.read_text(), re.M)}
        assert found <= allowed | {name}, (name, found)
    for path in (ROOT / "src/latentclap").rglob("*.py"):
        found = set(re.findall(r"^\s*(?:from|import) latentclap\.(\w+)", path.read_text(), re.M))
        if path.stem not in ("cli", "describe", "__main__", "workflow") and not {
            "book",
            "compare",
            "own",
            "play",
            "vary",
        } & {*path.parts}:  # what stands on top, with pages of its own
            assert not found & {"cli", "book"}, path


def test_facts_that_comments_name_have_their_section(repo_root):
    """A comment's "facts A4" is a heading, or an entry, of the page on sources."""
    page = (repo_root / "book/sources.md").read_text(encoding="utf-8")
    there = set(re.findall(r"^#{2,3} ([A-H]\d?)\b", page, re.M)) | set(re.findall(r"^- (G\d):", page, re.M))
    named = {
        label
        for folder in ("src", "tests", "data_scripts", "notebooks")
        for path in sorted((repo_root / folder).rglob("*"))
        if path.suffix in (".py", ".toml", ".ipynb")
        for told in re.findall(r"\b[Ff]acts ([A-H]\d?(?:, [A-H]\d?)*)\b", path.read_text(encoding="utf-8"))
        for label in told.split(", ")
    }
    assert len(named) > 10 and named <= there
