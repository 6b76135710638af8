"""The state folder: remembered ports, kept secrets, whole files, and folders that the database can enter."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from workers.local.home import PREFERRED_PORTS, Home, HomeError, free_port, is_port_free, read_json, write_json


@pytest.fixture
def home(open_folder: Path) -> Home:
    made = Home(open_folder / "state")
    made.prepare()
    return made


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_ports_are_chosen_once_all_different_and_remembered(home: Home) -> None:
    chosen = home.choose_ports({})
    assert set(chosen) == set(PREFERRED_PORTS)
    assert len(set(chosen.values())) == len(chosen)
    assert home.ports() == chosen
    assert home.choose_ports({}) == chosen


def test_a_taken_port_is_left_to_its_owner(home: Home, taken_port: int) -> None:
    write_json(home.path / "ports.json", {**home.choose_ports({}), "kafka": taken_port})
    chosen = home.choose_ports({})
    assert chosen["kafka"] != taken_port
    assert home.ports()["kafka"] == chosen["kafka"]
    assert not is_port_free(taken_port)


def test_a_port_that_was_asked_for_is_used_and_given_to_nobody_else(home: Home) -> None:
    wanted = free_port()
    write_json(home.path / "ports.json", {"kafka": wanted})
    chosen = home.choose_ports({"api": wanted})
    assert chosen["api"] == wanted
    assert chosen["kafka"] != wanted


def test_two_stacks_that_start_at_once_choose_different_ports(home: Home, open_folder: Path) -> None:
    """Neither has a server that listens yet."""
    other = Home(open_folder / "other")
    other.prepare()
    write_json(other.path / "ports.json", home.choose_ports({}))
    assert not set(home.ports().values()) & set(other.choose_ports({}).values())


def test_a_stack_of_another_process_keeps_the_ports_that_it_chose(home: Home) -> None:
    start = "from workers.local.home import *; import sys; Home(Path(sys.argv[1])).choose_ports({}); print(flush=True)"
    choose = [sys.executable, "-c", f"{start}; input()", str(home.path)]
    with subprocess.Popen(choose, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        theirs = home.ports()
        assert not set(theirs.values()) & set(home.choose_ports({}).values())
        process.kill()
    write_json(home.path / "ports.json", theirs)
    assert home.choose_ports({}) == theirs


def test_the_search_gets_a_port_of_the_only_range_that_it_can_take(home: Home, taken_port: int) -> None:
    write_json(home.path / "ports.json", {"opensearch": taken_port})
    chosen = home.choose_ports({})["opensearch"]
    assert 9200 < chosen < 9300
    assert home.choose_ports({})["opensearch"] == chosen


def test_everybody_gets_a_password_that_stays(home: Home) -> None:
    first = home.passwords(["bob", "carol"])
    assert first["bob"] != first["carol"]
    more = home.passwords(["bob", "zoe"])
    assert more.keys() == {"bob", "carol", "zoe"}
    assert more["bob"] == first["bob"]
    assert home.passwords() == more
    assert stat.S_IMODE((home.path / "people.json").stat().st_mode) == 0o600


def test_secrets_are_made_once_and_are_for_the_owner_only(home: Home) -> None:
    secrets = home.secrets()
    assert len(set(secrets.values())) == len(secrets) >= 5
    assert home.secrets() == secrets
    assert stat.S_IMODE((home.path / "secrets.json").stat().st_mode) == 0o600


def test_a_file_is_replaced_as_a_whole(home: Home) -> None:
    file = home.path / "status.json"
    write_json(file, {"ready": False})
    before = file.stat().st_ino
    write_json(file, {"ready": True})
    assert read_json(file) == {"ready": True}
    assert file.stat().st_ino != before
    assert [path.name for path in home.path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's PostgreSQL runs as another user")
def test_a_folder_behind_a_closed_door_is_refused_by_name(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(HomeError, match=r"is closed to other users.*RECOURSE_HOME"):
        Home(closed / "state").prepare()


def test_a_folder_that_cannot_be_made_is_told() -> None:
    with pytest.raises(HomeError, match="Name another folder in RECOURSE_HOME"):
        Home(Path("/proc/recourse")).prepare()
