"""Fetching the code: every failure is a sentence, and the token is nowhere but in git's environment (I8)."""

import base64
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "userdata/agent"))

import deploykey
import source
from failures import Failure
from redact import Redactor

from spotrelay.rehearsal import git_server

TOKEN = "github_pat_0123456789"


def git(cwd, *arguments):
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *identity, *arguments], cwd=cwd, check=True, capture_output=True)


@pytest.fixture
def repo(tmp_path):
    path = tmp_path / "repo"
    path.mkdir()
    git(path, "init")
    (path / "run.sh").write_text("#!/bin/sh\n")
    (path / "run.sh").chmod(0o755)
    git(path, "add", "-A")
    git(path, "commit", "-m", "one")
    git(path, "tag", "v1")
    return path


def clone(repo, folder, ref="main"):
    return source.clone(folder, f"file://{repo}", ref, None, None, Redactor())


@pytest.mark.parametrize("ref", ["main", "v1", "commit"])
def test_a_branch_a_tag_and_a_commit_are_checked_out(repo, tmp_path, ref):
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=repo, capture_output=True, text=True).stdout.strip()
    commit, time = clone(repo, tmp_path / "work", head if ref == "commit" else ref)
    assert commit == head
    assert time > 0
    assert (tmp_path / "work/run.sh").stat().st_mode & 0o100
    assert not (tmp_path / "work/.git").exists()


def test_the_same_code_packs_to_the_same_bytes_and_unpacks(repo, tmp_path):
    _, time = clone(repo, tmp_path / "a")
    clone(repo, tmp_path / "b")
    packed = source.pack(tmp_path / "a", time)
    assert packed == source.pack(tmp_path / "b", time)
    source.unpack(packed, tmp_path / "c")
    assert (tmp_path / "c/run.sh").stat().st_mode & 0o100


@pytest.mark.parametrize(
    ("missing", "ref", "sentence"),
    [
        (True, "main", "was not found: correct source.repo; if it is private, set source.token."),
        (False, "no-such-branch", "has no 'no-such-branch': correct source.ref"),
        (False, "0" * 40, "correct source.ref"),
    ],
)
def test_what_cannot_be_cloned_says_what_to_do(repo, tmp_path, missing, ref, sentence):
    with pytest.raises(Failure, match=sentence) as caught:
        clone(tmp_path / "nowhere" if missing else repo, tmp_path / "work", ref)
    assert caught.value.reason == "source"


@pytest.mark.parametrize(
    ("stderr", "token_name", "sentence"),
    [
        (
            "fatal: could not read Username for 'https://github.com': terminal prompts disabled",
            None,
            "set|name a stored token",
        ),
        ("fatal: Authentication failed for 'https://github.com/o/r.git/'", "gh", "The secret 'gh' is refused"),
        ("remote: Repository not found.\nfatal: repository 'https://x/' not found", "gh", "'gh' may not read it"),
        ("fatal: unable to access: Could not resolve host: github.com", None, "can't be reached"),
        (f"fatal: something odd with {TOKEN}", None, r"something odd with \[secret\]"),
    ],
)
def test_gits_complaints_become_sentences(stderr, token_name, sentence):
    import re

    redact = Redactor()
    redact.add(TOKEN)
    text = source.explain(stderr, "https://github.com/o/r.git", "main", token_name, redact)
    assert re.search(sentence, text)
    assert TOKEN not in text


def test_the_token_is_in_gits_environment_only(tmp_path, monkeypatch):
    seen = tmp_path / "seen"
    shims = tmp_path / "shims"
    shims.mkdir()
    (shims / "git").write_text(
        f'#!/bin/sh\necho "$*" >> {seen}; env >> {seen}.env; [ "$1" = rev-parse ] && echo c; [ "$1" = log ] && echo 1; true\n'
    )
    (shims / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{shims}:/usr/bin:/bin")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "aws-secret")
    source.clone(tmp_path / "work", "https://github.com/o/r.git", "main", TOKEN, "gh", Redactor())
    basic = base64.b64encode(f"x-access-token:{TOKEN}".encode()).decode()
    assert TOKEN not in seen.read_text()
    assert basic not in seen.read_text()
    environment = Path(f"{seen}.env").read_text()
    assert f"AUTHORIZATION: basic {basic}" in environment
    assert "http.https://github.com/.extraHeader" in environment
    assert "aws-secret" not in environment


def test_a_token_is_sent_to_https_only():
    with pytest.raises(Failure, match="https://"):
        source.git_environment("http://github.com/o/r.git", TOKEN, {})


def test_an_archive_cannot_write_outside(tmp_path):
    path = tmp_path / "bad.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("../outside")
        archive.addfile(member)
    with pytest.raises(Failure, match="leads out"):
        source.unpack(path.read_bytes(), tmp_path / "in")
    assert not (tmp_path / "outside").exists()


def test_a_deploy_key_is_a_file_that_only_git_s_ssh_is_told_of_and_only_while_it_runs(tmp_path, monkeypatch):
    key = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEA\n-----END OPENSSH PRIVATE KEY-----"
    seen, shims = tmp_path / "seen", tmp_path / "shims"
    shims.mkdir()
    (shims / "git").write_text(
        f'#!/bin/sh\necho "$*" >> {seen}; [ "$1" = fetch ] && $GIT_SSH_COMMAND -T git@github.com\n'
        f'env >> {seen}.env; [ "$1" = rev-parse ] && echo c; [ "$1" = log ] && echo 1; true\n'
    )
    (shims / "ssh").write_text(
        f'#!/bin/sh\necho "$*" > {seen}.ssh; cat "$4" > {seen}.key; stat -c %a "$4" >> {seen}.mode\n'
    )
    for shim in shims.iterdir():
        shim.chmod(0o755)
    monkeypatch.setenv("PATH", f"{shims}:/usr/bin:/bin")
    redact = Redactor()
    source.clone(tmp_path / "work", "git@github.com:o/r.git", "main", key, "deploy-key", redact)
    assert Path(f"{seen}.key").read_text() == key + "\n"
    assert Path(f"{seen}.mode").read_text() == "600\n"
    told = Path(f"{seen}.ssh").read_text()
    assert "StrictHostKeyChecking=yes" in told
    assert not Path(told.split()[3]).exists(), "it is gone when git is"
    for place in (seen, Path(f"{seen}.env"), Path(f"{seen}.ssh")):
        assert "b3BlbnNzaC1rZXktdjEA" not in place.read_text()
    assert redact("it says b3BlbnNzaC1rZXktdjEA") == "it says [secret]"


@pytest.mark.parametrize(
    ("repo", "host"),
    [
        ("git@github.com:o/r.git", "github.com"),
        ("ssh://git@example.org:22/o/r", "example.org"),
        ("ssh://example.org/o/r", "example.org"),
        ("https://github.com/o/r", None),
        ("/a/folder", None),
    ],
)
def test_a_key_is_for_addresses_that_ssh_reaches(repo, host):
    assert deploykey.host(repo) == host


def test_a_private_repository_is_read_with_the_token_and_leaves_no_trace_of_it(repo, tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with git_server.serving(repo, TOKEN) as url:
        commit, _ = source.clone(tmp_path / "work", url, "main", TOKEN, "gh", Redactor())
        for wrong in ("github_pat_other", None):
            with pytest.raises(Failure, match=r"refused|name a stored token"):
                source.clone(tmp_path / "other", url, "main", wrong, "gh" if wrong else None, Redactor())
    assert len(commit) == 40
    basic = base64.b64encode(f"x-access-token:{TOKEN}".encode())
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert TOKEN.encode() not in path.read_bytes()
            assert basic not in path.read_bytes()
