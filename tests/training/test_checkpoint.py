"""Test checkpoints that are interrupted, damaged, or do not fit on the disk."""

import contextlib
import resource
import shutil
import sys

import numpy as np
import pytest

from seeflower_jax import records
from seeflower_jax.training.checkpoint import Checkpoints, DamagedCheckpointError
from seeflower_jax.training.progress import MetricsLog
from tests import harness

# Of a run of two stages; checkpoints are saved between epochs, too.
STEPS = ("head", 1), ("head", 2), ("finetune", 3)
BEST_STEPS = {1: 1, 2: 1, 3: 3}
WRITES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}
LIKE = {"x": np.zeros(4, np.int32)}


def _values(step):
    return {"x": np.full(4, step, np.int32)}


def _run(workdir):
    """Run the missing steps; each writes a line of the log and a checkpoint."""
    with contextlib.closing(Checkpoints(workdir)) as checkpoints:
        meta = checkpoints.meta()
        done = meta["progress"]["step"] if meta else 0
        if meta:
            checkpoints.best = checkpoints.restore_best(LIKE)
        log = MetricsLog(workdir, done)
        for stage, step in STEPS[done:]:
            if BEST_STEPS[step] == step:
                checkpoints.best = _values(step)
            log.write(run_step=step, stage=stage)
            progress = {"step": step, "stage": stage}
            checkpoints.save(step, _values(step), {"progress": progress})


class _Copies:
    """Copies of a folder; each copy shows the folder after a kill at the next write.

    The hook of Python's audit events cannot be removed, so it can be switched off.
    """

    def __init__(self, folder, target):
        self.folder, self.target, self.count, self._active = folder, target, 0, True
        sys.addaudithook(self._hook)

    def _hook(self, event, arguments):
        if self._active and event in WRITES and str(self.folder) in str(arguments):
            if event == "open" and arguments[1] in ("r", "rb"):
                return
            self._active = False  # copying reads the folder
            with contextlib.suppress(FileNotFoundError, shutil.Error):
                shutil.copytree(self.folder, self.target / str(self.count))
            self.count += 1
            self._active = True

    def stop(self):
        self._active = False


@pytest.mark.long
def test_kill_at_every_write_leaves_one_state(tmp_path):
    (tmp_path / "run").mkdir()
    copies = _Copies(tmp_path / "run", tmp_path / "copies")
    _run(tmp_path / "run")
    copies.stop()
    log = (tmp_path / "run/metrics.jsonl").read_bytes()
    assert len(log.splitlines()) == len(STEPS) and copies.count > 45
    steps = set()
    for number in range(copies.count):
        folder = tmp_path / "copies" / str(number)
        if not folder.exists():
            continue
        with contextlib.closing(Checkpoints(folder, read_only=True)) as checkpoints:
            meta = checkpoints.meta()
            step = meta["progress"]["step"] if meta else 0
            if meta:
                assert meta["progress"]["stage"] == STEPS[step - 1][0]
                state = checkpoints.restore_state(LIKE)
                harness.assert_trees_equal(state, _values(step))
                best = checkpoints.restore_best(LIKE)
                harness.assert_trees_equal(best, _values(BEST_STEPS[step]))
        assert not steps or step >= max(steps), "a later kill lost an earlier state"
        steps.add(step)
        _run(folder)
        assert (folder / "metrics.jsonl").read_bytes() == log
        names = [path.name for path in (folder / "checkpoints").iterdir()]
        # After its last save, the run could not remove the previous checkpoint.
        assert set(names) in ({"3"}, {"2", "3"}) and not list(folder.glob("partial_*"))
    assert steps == {0, 1, 2, 3}


def test_read_only_writes_nothing(tmp_path):
    with contextlib.closing(Checkpoints(tmp_path, read_only=True)) as checkpoints:
        assert checkpoints.meta() is None
    assert list(tmp_path.iterdir()) == []
    stale = tmp_path / "checkpoints/7.orbax-checkpoint-tmp"
    stale.mkdir(parents=True)
    Checkpoints(tmp_path, read_only=True).close()
    assert stale.exists()
    Checkpoints(tmp_path).close()
    assert not stale.exists()


def _damage(path, how):
    content = path.read_bytes()
    if how == "absent":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "half":
        path.write_bytes(content[: len(content) // 2])
    else:
        middle = len(content) // 2
        flipped = bytes([content[middle] ^ 16])
        path.write_bytes(content[:middle] + flipped + content[middle + 1 :])


@pytest.mark.parametrize("how", ["absent", "empty", "half", "flipped"])
def test_damaged_checkpoint_is_named_or_has_the_saved_values(tmp_path, how):
    _run(tmp_path / "run")
    files = [p for p in (tmp_path / "run/checkpoints").rglob("*") if p.is_file()]
    named = 0
    for number, file in enumerate(files):
        folder = tmp_path / str(number)
        shutil.copytree(tmp_path / "run", folder)
        _damage(folder / file.relative_to(tmp_path / "run"), how)
        try:
            with contextlib.closing(Checkpoints(folder, read_only=True)) as checkpoints:
                assert checkpoints.meta()["progress"]["step"] == 3
                harness.assert_trees_equal(checkpoints.restore_state(LIKE), _values(3))
                harness.assert_trees_equal(checkpoints.restore_best(LIKE), _values(3))
        except DamagedCheckpointError as error:
            named += 1
            assert f"{folder}/checkpoints/3 is damaged: " in str(error)
            assert "\n" not in str(error) and len(str(error)) < 600
    assert named > 3


@contextlib.contextmanager
def _small_files(size):
    """Limit files to `size` bytes, as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_full_disk_keeps_the_last_checkpoint(tmp_path):
    workdir = tmp_path / "run"
    large = {"x": np.random.default_rng(0).normal(size=4096)}
    with pytest.raises(records.FullDiskError, match="checkpoints: the disk is full"):
        with contextlib.closing(Checkpoints(workdir)) as checkpoints:
            checkpoints.save(1, _values(1), {"progress": {"step": 1}})
            checkpoints.wait()
            with _small_files(10_000):
                checkpoints.save(2, large, {"progress": {"step": 2}})
                checkpoints.wait()
    with contextlib.closing(Checkpoints(workdir)) as checkpoints:
        harness.assert_trees_equal(checkpoints.restore_state(LIKE), _values(1))
        checkpoints.save(2, large, {"progress": {"step": 2}})
        checkpoints.wait()
        harness.assert_trees_equal(checkpoints.restore_state(large), large)


def test_full_disk_while_the_log_is_written(tmp_path):
    log = MetricsLog(tmp_path, 0)
    log.write(run_step=1)
    with _small_files(20), pytest.raises(records.FullDiskError, match="metrics.jsonl"):
        log.write(run_step=2)
    assert records.read_log(tmp_path) == [{"run_step": 1}]
    MetricsLog(tmp_path, 1).write(run_step=2)
    assert records.read_log(tmp_path) == [{"run_step": 1}, {"run_step": 2}]


@pytest.mark.parametrize(
    "end,kept", [(b'{"run_step": 2, "st', 1), (b"\0" * 40, 1), (b"", 1)]
)
def test_log_drops_an_incomplete_last_line(tmp_path, caplog, end, kept):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"run_step": 1}\n' + end)
    assert len(records.read_log(tmp_path)) == kept and not caplog.messages
    MetricsLog(tmp_path, 5).write(run_step=2)
    assert path.read_text() == '{"run_step": 1}\n{"run_step": 2}\n'


def test_log_names_damaged_lines(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"run_step": 1}\n{"run_st\n3\n\xff\xfe\n{"run_step": 2}\n')
    assert [line["run_step"] for line in records.read_log(tmp_path)] == [1, 2]
    assert caplog.messages == [f"{path}: line 2, 3, 4 is damaged and left out"]


def test_log_is_untouched_where_there_is_nothing_to_drop(tmp_path):
    MetricsLog(tmp_path, 0).write(run_step=1)
    before = (tmp_path / "metrics.jsonl").stat()
    MetricsLog(tmp_path, 1)
    after = (tmp_path / "metrics.jsonl").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    MetricsLog(tmp_path, 0)
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""
