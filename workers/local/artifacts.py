"""Brings the Java parts into the cache and checks them against runtime.lock; it must never run what differs."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

LOCK_FILE = Path(__file__).with_name("runtime.lock")

_COPY_GOAL = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy"
_AT_ONCE = 8
_REPORT_SECONDS = 0.25

# (bytes on disk so far, bytes wanted)
Progress = Callable[[int, int], None]
# (artifact, an empty folder of its own) → the file that was fetched
Source = Callable[["Artifact", Path], Path]


class ArtifactError(Exception):
    """A download is not to be had, or is not what the lock says; the message lists what was tried."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """One line of the lock: a Maven coordinate with the sha256 and size that its file must have."""

    part: str
    group: str
    name: str
    version: str
    packaging: str
    sha256: str
    size: int

    @property
    def coordinate(self) -> str:
        return f"{self.group}:{self.name}:{self.version}:{self.packaging}"

    @property
    def path(self) -> Path:
        """Where a Maven repository, and our cache, keeps it."""
        file = f"{self.name}-{self.version}.{self.packaging}"
        return Path(*self.group.split("."), self.name, self.version, file)


def read_lock(part: str | None = None, lock: Path = LOCK_FILE) -> tuple[Artifact, ...]:
    """The artifacts of a part, or of all; ArtifactError names a line that cannot be read."""
    found = []
    for number, line in enumerate(lock.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            owner, coordinate, sha256, size = line.split()
            group, name, version, packaging = coordinate.split(":")
            artifact = Artifact(owner, group, name, version, packaging, sha256, int(size))
        except ValueError as error:
            raise ArtifactError(f"{lock.name}, line {number}: wants part, coordinate, sha256 and size") from error
        if part in (None, owner):
            found.append(artifact)
    return tuple(found)


def missing_artifacts(artifacts: Iterable[Artifact], cache: Path) -> tuple[Artifact, ...]:
    """Those that the cache lacks, each once; a file gets its name there only after its checksum matched."""
    wanted = {artifact.path: artifact for artifact in artifacts}  # two parts may be made of the same jar
    return tuple(artifact for artifact in wanted.values() if not _is_cached(artifact, cache))


def fetch_artifacts(
    artifacts: Iterable[Artifact], cache: Path, progress: Progress, sources: tuple[Source, ...] | None = None
) -> None:
    """Fetch what the cache lacks, several at once; starters that run side by side wait for each other.

    What is done stays done when this is interrupted. Raises ArtifactError after every source was tried.
    """
    wanted = tuple(artifacts)
    with _exclusive(cache):
        missing = missing_artifacts(wanted, cache)
        if not missing:
            return
        for abandoned in cache.glob("fetch-*"):
            shutil.rmtree(abandoned)
        total = sum(artifact.size for artifact in missing)
        with (
            tempfile.TemporaryDirectory(dir=cache, prefix="fetch-") as scratch,
            ThreadPoolExecutor(_AT_ONCE) as pool,
        ):
            work = [
                pool.submit(_fetch, artifact, cache, Path(scratch) / str(number), sources or default_sources())
                for number, artifact in enumerate(missing)
            ]
            _watch(work, lambda: progress(min(total, _fetched(missing, cache, Path(scratch))), total))
        for future in work:
            future.result()


def unpack_artifact(artifact: Artifact, cache: Path) -> Path:
    """The folder that a cached tar.gz holds, unpacked once beside it."""
    archive = cache / artifact.path
    target = archive.with_name("unpacked")
    if not target.exists():
        with _exclusive(cache):
            if not target.exists():
                with tempfile.TemporaryDirectory(dir=archive.parent, prefix="unpack-") as scratch:
                    whole = Path(scratch) / "whole"
                    with tarfile.open(archive) as tar:
                        tar.extractall(whole, filter="data")
                    whole.rename(target)
    (home,) = target.iterdir()
    return home


def default_sources() -> tuple[Source, ...]:
    """The local Maven repository, then jgo (pure Python), then mvn (it knows a site's mirrors)."""
    return (from_local_repository, from_jgo, from_mvn)


def from_local_repository(artifact: Artifact, folder: Path) -> Path:
    found = Path.home() / ".m2" / "repository" / artifact.path
    copy = folder / found.name
    shutil.copyfile(found, copy)
    return copy


def from_jgo(artifact: Artifact, folder: Path) -> Path:
    from jgo.maven import MavenContext  # only the command that downloads pays for it

    context = MavenContext(repo_cache=folder, timeout=60)
    component = context.project(artifact.group, artifact.name).at_version(artifact.version)
    return Path(component.artifact(packaging=artifact.packaging).resolve())


def from_mvn(artifact: Artifact, folder: Path) -> Path:
    arguments = [f"-Dartifact={artifact.coordinate}", f"-DoutputDirectory={folder}", "-Dmdep.useBaseVersion=true"]
    subprocess.run(
        ["mvn", "-q", "-B", "-ntp", _COPY_GOAL, *arguments], check=True, cwd=folder, capture_output=True, text=True
    )
    return folder / artifact.path.name


def _fetch(artifact: Artifact, cache: Path, folder: Path, sources: tuple[Source, ...]) -> None:
    tried = []
    for source in sources:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            file = source(artifact, folder)
            found = _sha256(file)
        # A source is somebody else's program and may fail in any way of its own; the next one is tried.
        except Exception as error:  # noqa: BLE001
            tried.append(f"{source.__name__}: {str(error) or type(error).__name__}"[:200])
            continue
        if found != artifact.sha256:
            tried.append(f"{source.__name__}: sha256 is {found}, the lock says {artifact.sha256}")
            continue
        target = cache / artifact.path
        target.parent.mkdir(parents=True, exist_ok=True)
        file.replace(target)
        return
    raise ArtifactError(f"{artifact.coordinate} cannot be had. " + " · ".join(tried))


def _watch(work: list[Future[None]], report: Callable[[], None]) -> None:
    pending = set(work)
    while pending:
        _, pending = wait(pending, timeout=_REPORT_SECONDS)
        report()


def _fetched(artifacts: tuple[Artifact, ...], cache: Path, scratch: Path) -> int:
    done = sum(artifact.size for artifact in artifacts if _is_cached(artifact, cache))
    coming = 0
    for path in scratch.rglob("*"):
        try:
            coming += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:  # moved to its place while we looked
            continue
    return done + coming


def _is_cached(artifact: Artifact, cache: Path) -> bool:
    try:
        return (cache / artifact.path).stat().st_size == artifact.size
    except FileNotFoundError:
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _exclusive(cache: Path) -> Iterator[None]:
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
