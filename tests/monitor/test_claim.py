import os
from contextlib import ExitStack

import pytest

from acutance.monitor.claim import claimed

fcntl = pytest.importorskip("fcntl", reason="files are locked by fcntl")


@pytest.fixture
def between(monkeypatch):
    """Let something happen once, between the moment when a file is opened and that when it is locked."""

    def install(happens):
        real = fcntl.flock

        def flock(handle, how):
            monkeypatch.setattr(fcntl, "flock", real)
            happens()
            real(handle, how)

        monkeypatch.setattr(fcntl, "flock", flock)

    return install


def test_a_file_is_held_by_one_and_removed_afterwards(tmp_path):
    path = tmp_path / "lock"
    with claimed(path) as first, claimed(path) as second, claimed(path) as third:
        assert (first, second, third) == (True, False, False)
    assert not path.exists()
    with claimed(path) as again:
        assert again


def test_a_file_that_its_holder_leaves_while_it_is_opened_is_held_by_one(tmp_path, between):
    path, first = tmp_path / "lock", ExitStack()
    assert first.enter_context(claimed(path))
    between(first.close)
    with claimed(path) as second, claimed(path) as third:
        assert (second, third) == (True, False)
    assert not path.exists()


def test_a_file_that_another_takes_meanwhile_is_that_others(tmp_path, between):
    path, first, third = tmp_path / "lock", ExitStack(), ExitStack()
    assert first.enter_context(claimed(path))

    def change():
        first.close()
        assert third.enter_context(claimed(path))

    between(change)
    with third, claimed(path) as second, claimed(path) as fourth:
        assert (second, fourth) == (False, False)
    assert not path.exists()


def test_who_does_not_hold_a_file_leaves_it_to_who_does(tmp_path):
    path, first = tmp_path / "lock", ExitStack()
    assert first.enter_context(claimed(path))
    path.unlink()  # by hand
    with claimed(path) as second:
        assert second
        first.close()
        assert path.exists()
        with claimed(path) as third:
            assert not third


def test_where_files_cannot_be_locked_nobody_holds_them(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    before = len(os.listdir("/dev/fd"))
    with claimed(tmp_path / "lock") as one, claimed(tmp_path / "lock") as two, claimed(tmp_path / "no" / "lock") as no:
        assert one and two and no
    assert len(os.listdir("/dev/fd")) == before
