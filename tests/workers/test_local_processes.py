"""Processes are known for certain: never by a number alone, also after their starter was killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from workers.local.processes import Child, Command, CommandError, find_child, last_lines, run_command, start_child

ENVIRONMENT = {"PATH": os.defpath}
PATIENCE = 10.0


def start(folder: Path, *arguments: str) -> Child:
    return start_child(Command(arguments, ENVIRONMENT), folder / "part.pid", folder / "part.log")


async def until_written(log: Path, text: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while not any(text in line for line in last_lines(log)):
            await asyncio.sleep(0.02)


async def test_a_child_is_found_by_its_pid_file_and_stopped(tmp_path: Path) -> None:
    child = start(tmp_path, "sleep", "60")
    async with asyncio.timeout(PATIENCE):
        while (found := find_child(tmp_path / "part.pid")) is None:
            await asyncio.sleep(0.01)
    assert found.pid == child.pid
    assert os.getsid(child.pid) == child.pid
    await child.stop(signal.SIGTERM, PATIENCE)
    assert child.ending == "was killed by SIGTERM"
    assert find_child(tmp_path / "part.pid") is None
    assert not (tmp_path / "part.pid").exists()


async def test_a_number_that_is_anothers_now_is_left_alone(tmp_path: Path) -> None:
    stranger = subprocess.Popen(["sleep", "60"])
    pid_file = tmp_path / "part.pid"
    try:
        fields = Path(f"/proc/{stranger.pid}/stat").read_text().split()
        fields[21] = str(int(fields[21]) - 1)
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        pid_file.write_text(f"{' '.join(fields)}\n{boot}")
        assert find_child(pid_file) is None
        fields[21] = str(int(fields[21]) + 1)
        pid_file.write_text(f"{' '.join(fields)}\nanother-boot\n")
        assert find_child(pid_file) is None
        pid_file.write_text(f"{' '.join(fields)}\n{boot}")
        assert find_child(pid_file) is not None
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.parametrize("text", ["", "nonsense", "12 (x) S 1\nboot"])
def test_a_pid_file_that_makes_no_sense_names_nobody(tmp_path: Path, text: str) -> None:
    (tmp_path / "part.pid").write_text(text)
    assert find_child(tmp_path / "part.pid") is None


async def test_a_child_outlives_its_starter_killed_at_once_and_is_found_again(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path;"
        "from workers.local.processes import Command, start_child; folder = Path(sys.argv[1]);"
        "start_child(Command(['sleep', '60'], {'PATH': os.defpath}), folder / 'part.pid', folder / 'part.log');"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    starter = await asyncio.create_subprocess_exec(sys.executable, "-c", code, str(tmp_path))
    assert await starter.wait() == -signal.SIGKILL
    async with asyncio.timeout(PATIENCE):
        while (orphan := find_child(tmp_path / "part.pid")) is None:
            await asyncio.sleep(0.01)
    await orphan.stop(signal.SIGTERM, PATIENCE)
    assert not orphan.is_alive()


async def test_one_that_does_not_listen_is_ended_by_force_with_its_session(tmp_path: Path) -> None:
    script = "trap '' TERM; sleep 61 & echo $!; echo deaf; wait; wait"
    child = start(tmp_path, "/bin/sh", "-c", script)
    await until_written(tmp_path / "part.log", "deaf")
    grandchild = int(last_lines(tmp_path / "part.log")[0])
    started = time.monotonic()
    await child.stop(signal.SIGTERM, 0.3)
    assert time.monotonic() - started < PATIENCE
    assert child.ending == "was killed by SIGKILL"
    async with asyncio.timeout(PATIENCE):
        while Path(f"/proc/{grandchild}").exists() and "Z" not in Path(f"/proc/{grandchild}/stat").read_text().split():
            await asyncio.sleep(0.02)


async def test_an_ending_is_told(tmp_path: Path) -> None:
    child = start(tmp_path, "/bin/sh", "-c", "echo last words; exit 3")
    await asyncio.wait_for(child.wait(), PATIENCE)
    assert child.ending == "ended with exit code 3"
    assert last_lines(tmp_path / "part.log") == ["last words"]
    assert not child.is_alive()


async def test_a_command_answers_what_it_said_or_fails_with_it() -> None:
    heard: list[str] = []
    said = await run_command(Command(["/bin/sh", "-c", "echo one; echo two >&2"], ENVIRONMENT), heard.append)
    assert (said, heard) == ("one\ntwo", ["one", "two"])
    with pytest.raises(CommandError, match=r"sh failed with exit code 4: oh"):
        await run_command(Command(["/bin/sh", "-c", "echo oh; exit 4"], ENVIRONMENT))


async def test_a_command_ends_when_nobody_waits_for_it_any_more(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    running = asyncio.create_task(
        run_command(Command(["/bin/sh", "-c", f"echo $$ > {note}; exec sleep 60"], ENVIRONMENT))
    )
    async with asyncio.timeout(PATIENCE):
        while not note.exists() or not note.read_text():
            await asyncio.sleep(0.01)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert not Path(f"/proc/{note.read_text().strip()}").exists()
