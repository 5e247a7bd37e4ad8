"""Downloads: only when asked, whole, and only what was published."""

import hashlib
import os

import pytest
from click.testing import CliRunner

from acutance import UserError
from acutance.io.downloads import VARIABLE, allowed, allowing, fetch


@pytest.fixture(autouse=True)
def nothing_asked(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "site" / "file.bin"
    path.parent.mkdir()
    path.write_bytes(os.urandom(3 << 20))
    return path.as_uri(), "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


def test_downloads_are_allowed_by_the_option_and_by_the_environment(monkeypatch):
    assert not allowed()
    with allowing(False):
        assert not allowed()
    with pytest.raises(KeyError), allowing(True):
        assert allowed()
        raise KeyError
    assert not allowed() and VARIABLE not in os.environ
    monkeypatch.setenv(VARIABLE, "0")
    assert not allowed()
    with allowing(True):
        assert allowed()
    assert os.environ[VARIABLE] == "0"


def test_a_file_is_fetched_once_and_whole(source, tmp_path, capsys):
    url, digest = source
    target = tmp_path / "here" / "file.bin"
    with pytest.raises(UserError, match=r"downloads are not allowed \(get file:.*--allow-download"):
        fetch(url, target, digest)
    with allowing(True):
        assert fetch(url, target, digest) == target
        (tmp_path / "site" / "file.bin").unlink()
        assert fetch(url, target, digest) == target
    assert capsys.readouterr().err == f"downloading {url} to {target}\n"
    assert digest.endswith(hashlib.sha256(target.read_bytes()).hexdigest())
    with allowing(True), pytest.raises(UserError, match="cannot be downloaded"):
        fetch(url, tmp_path / "other.bin", digest)


def test_another_file_than_the_published_one_is_refused(source, tmp_path):
    url, _ = source
    with allowing(True), pytest.raises(UserError, match=r"has md5 \w+, published is 0123"):
        fetch(url, tmp_path / "here" / "file.bin", "md5:0123")
    assert list((tmp_path / "here").iterdir()) == []


@pytest.mark.parametrize("given", [[], ["--allow-download"]])
def test_the_verb_passes_it_on(given, toy_config, tmp_path, monkeypatch):
    import yaml

    from acutance.cli import cli
    from acutance.run import harness

    seen = []

    def run_study(*arguments, **options):
        seen.append(allowed())
        raise UserError("far enough")

    monkeypatch.setattr(harness, "run_study", run_study)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(toy_config))
    CliRunner().invoke(cli, ["run", str(tmp_path / "study.yaml"), "--quiet", *given])
    assert seen == [bool(given)] and not allowed()
