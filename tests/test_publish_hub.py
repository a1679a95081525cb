"""``latentclap publish --push`` against a hub on 127.0.0.1: what arrives, what goes wrong, and the way back."""

import hashlib
import os
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest

import local_hub
import local_xet
from latentclap import FoleySystem
from latentclap.errors import InputError
from latentclap.files import read_json
from latentclap.lora import ADAPTER
from latentclap.publish.push import git_digest, look
from local_hub import GOOD, READ_ONLY, entry, hub_on_this_machine
from published import publish

NAME = "jane/beeps"


@pytest.fixture(scope="module")
def system(tiny_family, tmp_path_factory):
    """A system that is sampled in two steps; its records do not matter here."""
    from published import fast

    folder = fast(tiny_family, tmp_path_factory.mktemp("system") / "tiny")
    return FoleySystem.from_pretrained(folder).save_pretrained(folder.parent / "beeps")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that huggingface_hub takes for the one there is, without hf_xet; nobody waits between two tries."""
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(_http.time, "sleep", lambda _: None)
    monkeypatch.setenv("HF_TOKEN", GOOD)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with hub_on_this_machine() as found:
        monkeypatch.setattr(constants, "ENDPOINT", found.url)
        template = found.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield found


@pytest.fixture
def push(system, tmp_path):
    """Call the command; its result. The folder is written the first time."""

    def call(*options, name=NAME, license="mit"):
        out = tmp_path / "out"
        return publish(system, "-o", out, "--license", license, "--push", name, "-q", *options)

    return call


def refused(said):
    """The one line that it says."""
    assert isinstance(said.exception, InputError), (said.output, said.exception)
    line = str(said.exception)
    assert "\n" not in line and "Traceback" not in said.output
    return line


def content(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# --- what arrives -----------------------------------------------------------------------------------------------


def test_every_byte_arrives_in_one_commit(hub, push, tmp_path):
    said = push()
    assert said.exit_code == 0, said.output
    assert f"pushed, and all files have arrived: {hub.url}/{NAME}" in said.output
    repo, ours = hub.repos[NAME], content(tmp_path / "out")
    assert {k: v for k, v in repo.files.items() if k != ".gitattributes"} == ours
    assert (repo.commits, repo.private) == (1, False)
    assert len(hub.puts()) == len(
        {hashlib.sha256(v).digest() for k, v in ours.items() if k.endswith("safetensors")}
    )
    # the card calls it by its name
    assert f'FoleySystem.from_pretrained("{NAME}")' in ours["README.md"].decode()
    assert ours["README.md"].decode().split("\n# ", 1)[1].startswith("beeps\n")


def test_what_was_added_is_sent_and_what_is_hidden_is_not(hub, push, tmp_path):
    push()
    for name in ("picture.png", ".DS_Store", "unet/.DS_Store", ".git/HEAD"):
        (tmp_path / "out" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "out" / name).write_bytes(b"x")
    for _ in range(2):
        said = push("--overwrite")
        assert said.exit_code == 0, said.output
        sent = {name for name in hub.repos[NAME].files if name != ".gitattributes"}
        assert "picture.png" in sent and not [name for name in sent if "/." in f"/{name}"]
        assert (tmp_path / "out" / ".git" / "HEAD").is_file()
    assert hub.repos[NAME].commits == 2
    assert b".DS_Store" not in hub.repos[NAME].files["model_card.json"]


def test_a_private_one(hub, push):
    assert push("--private").exit_code == 0
    assert hub.repos[NAME].private
    assert push("--private").exit_code == 0


def test_without_push_nothing_is_asked(hub, system, tmp_path):
    assert publish(system, "-o", tmp_path / "out", "--license", "mit").exit_code == 0
    assert (
        publish(system, "-o", tmp_path / "dry", "--license", "mit", "--push", NAME, "--dry-run").exit_code
        == 0
    )
    assert not hub.asked and not hub.repos and not (tmp_path / "dry").exists()


def test_the_same_again_sends_nothing(hub, push):
    push()
    hub.asked.clear()
    said = push()
    assert said.exit_code == 0 and f"{NAME} on the hub holds the same files already" in said.output
    assert {method for method, _ in hub.asked} == {"GET"}
    assert hub.repos[NAME].commits == 1


def test_other_content_is_replaced_only_when_asked(hub, push, tmp_path):
    push()
    hub.repos[NAME].files["thesis.txt"] = b"mine"
    line = refused(push())
    assert f"{NAME} is there and holds 1 file of another content (thesis.txt): choose another name" in line
    line = refused(push(license="cc0-1.0"))
    assert "holds 3 files of another content (README.md)" in line
    assert hub.repos[NAME].commits == 1
    hub.asked.clear()
    said = push("--overwrite", license="cc0-1.0")
    assert said.exit_code == 0, said.output
    assert hub.repos[NAME].files.keys() - {".gitattributes"} == content(tmp_path / "out").keys()
    assert b"license: cc0-1.0" in hub.repos[NAME].files["README.md"]
    line = f"README.md of {NAME} on the hub is another one: replaced, with what its header says"
    assert line in said.output.splitlines()
    assert not hub.puts()  # the weights were there


def test_a_public_one_does_not_become_private(hub, push):
    push()
    line = refused(push("--private"))
    assert f"{NAME} is there and public, which --private does not change" in line


def test_digests_are_the_hub_s(tmp_path):
    (tmp_path / "a.json").write_bytes(b"{}\n")
    assert git_digest(tmp_path / "a.json") == entry("a.json", b"{}\n")["blobId"]
    assert git_digest(tmp_path / "a.json") == "0967ef424bce6791893e9a57bb952f80fd536e93"  # git hash-object


# --- what goes wrong --------------------------------------------------------------------------------------------


def test_offline_nothing_is_tried(hub, push, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert refused(push()).startswith(
        "--push: HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) is set, so nothing is sent"
    )
    assert not hub.asked and not (tmp_path / "out").exists()


def test_without_a_token(hub, push, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "absent"))
    assert refused(push()).startswith(
        "--push: no token for the hub: hf auth login keeps one, or HF_TOKEN holds one"
    )
    assert not hub.asked and not (tmp_path / "out").exists()


def test_a_wrong_token(hub, push, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "the hub does not take the token (401): hf auth login, with one that may write" in refused(push())
    assert not hub.repos


@pytest.mark.parametrize(("token", "name"), [(READ_ONLY, NAME), (GOOD, "acme/beeps")])
def test_a_token_that_may_not_write(hub, push, monkeypatch, token, name):
    monkeypatch.setenv("HF_TOKEN", token)
    owner = name.partition("/")[0]
    line = refused(push(name=name))
    assert f"--push {name}: the token may not write to {owner} (403)" in line
    assert f"it says: You don't have the rights to create a model under {owner}" in line
    assert not hub.repos


def test_a_repository_of_another_that_may_be_seen(hub, push):
    hub.put("acme/beeps", {})
    assert "the token may not write to acme (403)" in refused(push(name="acme/beeps"))
    assert hub.repos["acme/beeps"].commits == 1


def test_somebody_else_commits_meanwhile(hub, push):
    hub.put(NAME, {})

    def meanwhile():
        hub.repos[NAME].files["thesis.txt"] = b"mine"
        hub.repos[NAME].commits += 1

    hub.before_commit = meanwhile
    assert f"{NAME} was changed by somebody meanwhile (412)" in refused(push())
    assert hub.repos[NAME].files.keys() == {".gitattributes", "thesis.txt"}
    hub.before_commit = lambda: None
    assert "holds 1 file of another content (thesis.txt)" in refused(push())


def test_a_conflict_that_the_hub_tells_as_409(hub, push):
    hub.fail("POST", "/commit/", 409)
    assert f"{NAME} was changed by somebody meanwhile (409)" in refused(push())
    assert push().exit_code == 0


@pytest.mark.parametrize(
    ("status", "says"), [(500, "fault of its own (500)"), (503, "(503)"), (429, "asks to wait")]
)
def test_a_hub_that_is_not_well(hub, push, status, says):
    hub.fail("POST", "/api/repos/create", *[status] * 20)
    assert says in refused(push())
    hub.faults.clear()
    assert push().exit_code == 0


def test_a_hub_that_cannot_be_reached(push, hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    line = refused(push())
    assert line.startswith(f"--push {NAME}: http://127.0.0.1:9 cannot be reached: ")
    assert line.endswith("the same command goes on when it can")


@pytest.mark.parametrize("what", ["/lfs/", "/preupload/", "/info/lfs/objects/batch"])
def test_a_connection_that_is_cut_once_is_tried_again(hub, push, what):
    hub.fail("PUT" if what == "/lfs/" else "POST", what, "cut")
    assert push().exit_code == 0
    assert hub.repos[NAME].commits == 1


def test_an_upload_that_is_cut_goes_on(hub, push, tmp_path):
    """Some files have arrived when the connection is gone: nothing is committed, and no file is sent twice."""
    hub.fail("GET", "/api/models/", 503)
    refused(push())  # written, and nothing is sent yet
    hub.faults.clear()
    sent = (v for k, v in content(tmp_path / "out").items() if k.endswith(".safetensors"))
    weights = {hashlib.sha256(body).hexdigest() for body in sent}
    lost = sorted(weights)[0]
    hub.fail("PUT", lost, *["cut"] * 50)
    line = refused(push())
    assert "the connection to" in line and "was cut: what has arrived is kept there" in line
    assert hub.repos[NAME].files.keys() == {".gitattributes"} and hub.objects.keys() == weights - {lost}
    hub.faults.clear()
    hub.asked.clear()
    said = push()
    assert said.exit_code == 0, said.output
    assert hub.puts() == [f"/lfs/{lost}"]
    assert {k: v for k, v in hub.repos[NAME].files.items() if k != ".gitattributes"} == content(
        tmp_path / "out"
    )


def test_a_commit_that_is_cut_goes_on(hub, push):
    hub.fail("POST", "/commit/", "cut")
    assert "was cut: what has arrived is kept there" in refused(push())
    hub.asked.clear()
    assert push().exit_code == 0
    assert not hub.puts() and hub.repos[NAME].commits == 1


def test_bytes_that_are_changed_on_the_way_are_noticed(hub, push, monkeypatch):
    def store(handler, hub, body, oid):
        hub.objects[oid] = body[:-1] + bytes([body[-1] ^ 1])
        handler._send(200, b"", ETag=f'"{oid}"')

    routes = [(m, path, store if path.startswith("/lfs/") else f) for m, path, f in local_hub.ROUTES]
    monkeypatch.setattr(local_hub, "ROUTES", routes)
    assert re.search(r"\d files did not arrive as they are here \(.*\.safetensors\)", refused(push()))


def test_what_is_there_is_told_by_content(hub, push, tmp_path):
    push()
    remote, out = look(NAME), tmp_path / "out"
    assert remote.exists and not remote.private and remote.commit == f"{1:040x}"
    assert remote.same(out) == content(out).keys()
    (out / "latentclap.json").write_bytes(b"x" * (out / "latentclap.json").stat().st_size)
    assert remote.same(out) == content(out).keys() - {"latentclap.json"}


# --- with hf_xet, and the way back ------------------------------------------------------------------------------


def called(hub, folder, *command, **more):
    """Run a command as a user does, who has said where the hub is."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(folder / "home"),
    }
    environment |= {"NO_PROXY": "127.0.0.1", **more}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.mark.slow
def test_there_and_back_with_hf_xet(hub, system, tmp_path):
    """As users have it: the hub by HF_ENDPOINT, uploads by hf_xet; then generate and the card's code by the name."""
    pytest.importorskip("hf_xet")
    call = (
        "-m",
        "latentclap.cli",
        "publish",
        str(system),
        "-o",
        "out",
        "--license",
        "mit",
        "--push",
        NAME,
        "-q",
    )
    told = called(hub, tmp_path, *call, "--device", "cpu", HF_TOKEN=GOOD, **local_xet.ENVIRONMENT)
    assert told.returncode == 0, told.stderr
    assert "pushed, and all files have arrived" in told.stdout
    assert hub.blocks and not hub.puts()  # it was hf_xet, and not git-lfs
    ours = content(tmp_path / "out")
    assert {k: v for k, v in hub.repos[NAME].files.items() if k != ".gitattributes"} == ours

    call = (
        "-m",
        "latentclap.cli",
        "generate",
        "--model",
        NAME,
        "--classes",
        "rain",
        "-o",
        "clips",
        "--device",
        "cpu",
    )
    told = called(hub, tmp_path, *call, HF_HUB_DISABLE_XET="1")
    assert told.returncode == 0, told.stderr
    assert read_json(tmp_path / "clips" / "generation.json")["model"] == NAME

    for code in re.findall(r"```python\n(.*?)```", ours["README.md"].decode(), re.S):
        (tmp_path / "clip.wav").unlink(missing_ok=True)
        told = called(hub, tmp_path, "-c", code, HF_HUB_DISABLE_XET="1")
        assert told.returncode == 0, told.stderr
        assert (tmp_path / "clip.wav").stat().st_size > 1000


@pytest.mark.slow
def test_adapters_are_downloaded_as_their_card_says(hub, mini, tmp_path):
    from test_publish import adapter

    file = adapter(mini, tmp_path / "work" / ADAPTER)
    said = publish(file, "-o", tmp_path / "out", "--license", "mit", "--push", NAME, "-q")
    assert said.exit_code == 0, said.output
    code = re.search(r"```bash\n(.*?)```", hub.repos[NAME].files["README.md"].decode(), re.S)[1]
    assert code.startswith(
        f"hf download {NAME} --local-dir beeps\nlatentclap generate --model mini --lora beeps "
    )
    hf = "import sys; sys.argv[0] = 'hf'; from huggingface_hub.cli.hf import main; main()"
    download, make = code.replace("-n 8", "-n 1").splitlines()
    told = called(hub, tmp_path, "-c", hf, *shlex.split(download)[1:], HF_HUB_DISABLE_XET="1")
    assert told.returncode == 0, told.stderr
    assert (tmp_path / "beeps" / ADAPTER).read_bytes() == file.read_bytes()
    told = called(hub, tmp_path, "-m", "latentclap.cli", *shlex.split(make)[1:], "--device", "cpu")
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith("1 clip ") and "warning" not in told.stderr


def test_what_was_downloaded_is_what_was_published(hub, push, system, tmp_path):
    assert push().exit_code == 0
    ours, theirs = (FoleySystem.from_pretrained(p).generate(["rain"], seed=1) for p in (system, NAME))
    assert np.array_equal(ours, theirs)
