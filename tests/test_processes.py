"""Test that several processes agree, and that none hangs when another process fails."""

import socket
import subprocess
import sys

import pytest

from tests import harness

_SECONDS = 60  # after this time, a process counts as hanging


def start_together(*command):
    """Start a command in two processes, with --process_id as its last argument."""
    return [
        subprocess.Popen(
            [sys.executable, *map(str, command), f"--process_id={number}"],
            cwd=harness.ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]


def free_port():
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _together(case, folder):
    """Run a case of `tests.together`; return (status, stdout, stderr) of both."""
    started = start_together("-m", "tests.together", case, folder, free_port())
    try:
        outputs = [process.communicate(timeout=_SECONDS) for process in started]
    finally:
        for process in started:
            process.kill()
    return [
        (process.returncode, *output)
        for process, output in zip(started, outputs, strict=True)
    ]


def test_processes_work_together(tmp_path):
    first, second = _together("work", tmp_path)
    assert first[0] == second[0] == 0, first[2] + second[2]
    votes = "[(False, False), (False, False), (True, False), (False, False)]"
    rest = f"{votes} (1, 1, True) 2 [0, 1, 2, 0] [0, 1, 2, 0] [0, 0]\n"
    assert first[1] == f"of process 0 0 True {rest}"
    assert second[1] == f"of process 0 0 False {rest}"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_failure_of_a_process_ends_the_other_with_its_message(tmp_path):
    first, second = _together("fail", tmp_path)
    assert first[0] == second[0] == 1
    assert "process 1 failed: the disk is full" in first[2]


def test_death_of_a_process_ends_the_other_with_a_reason(tmp_path):
    first, second = _together("die", tmp_path)
    assert second[0] == -9 and first[0] != 0
    assert "heartbeat" in first[2]


def test_folders_that_are_not_shared_are_refused(tmp_path):
    first, second = _together("separate", tmp_path)
    assert first[0] == second[0] == 1
    assert "process 1 does not see what process 0 writes to it" in first[2]


def test_kept_rows_have_the_origin_of_the_first_process(tmp_path):
    first, second = _together("keep", tmp_path)
    assert first[0] == second[0] == 0, first[2] + second[2]
    assert first[1] == second[1] == "[[1.0, 0.0], [0.0, 1.0]]\n" * 4


@pytest.mark.parametrize(
    "case,message",
    [
        ("differ", "other numbers than process 0: 1, not 0; give all processes the"),
        pytest.param(
            "other_config",
            "other configs than process 0: hash ",
            marks=pytest.mark.long,
        ),
        pytest.param(
            "other_images",
            "other images than process 0: {'classes': 2, 'images': {'train': 10, ",
            marks=pytest.mark.long,
        ),
        pytest.param(
            "other_weights",
            "other weights than process 0: SHA-256 of 1, not SHA-256 of 0; give all",
            marks=pytest.mark.long,
        ),
    ],
)
def test_what_differs_between_processes_ends_both(case, message, tmp_path):
    first, second = _together(case, tmp_path)
    assert first[0] == second[0] == 1, first[2] + second[2]
    assert f"process 1 failed: process 1 has {message}" in first[2]
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.long
def test_evaluation_of_images_that_differ_ends_both(tmp_path):
    first, second = _together("other_pixels", tmp_path)
    assert first[0] == second[0] == 1, first[2] + second[2]
    assert "process 1 failed: process 1 has other runs than process 0: " in first[2]


@pytest.mark.parametrize(
    "flag,message",
    [
        ("--process_id=0", "go with --distributed"),
        ("--distributed", "give --coordinator=HOST:PORT"),
    ],
)
def test_flags_that_do_not_fit_are_refused(flag, message, tmp_path):
    done = harness.run_apart("evaluate", f"--workdir={tmp_path}", flag)
    assert done.returncode == 2 and message in done.stderr
    assert done.stderr.count("\n") == 1
