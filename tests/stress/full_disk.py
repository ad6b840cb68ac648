"""Let the disk fill up at several points of each script, then give it space again.

counts = full_disk(world, log, False, 2)

The script has to fail in one line with the path of the disk. The same command has to
succeed when there is space. The disk is a small tmpfs if this process may mount one;
otherwise the size of files is limited (RLIMIT_FSIZE).
"""

import contextlib
import pathlib
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence

from tests.stress import children, jobs
from tests.stress.cases import error_lines, error_text
from tests.stress.world import CONFIG, World

SHARES = (0.02, 0.2, 0.4, 0.6, 0.8, 0.95)  # of the space that a script needs
_SPACE = 256 * 2**20


def full_disk(world: World, log: Callable, short: bool, _: int) -> dict:
    """Run all scripts that write on disks of several sizes."""
    count, problems, hangs = 0, {}, 0
    names = ("train", "export") if short else tuple(_commands(world, pathlib.Path()))
    mounted = _may_mount(world.folder)
    for name in names:
        for share in (SHARES[2],) if short else SHARES:
            folder = world.folder / "full_disk" / f"{name}_{share}"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            problem = _fill(world, folder, name, share, mounted)
            if problem is None:  # it needed less than this share
                continue
            count, hangs = count + 1, hangs + (problem == "hang")
            if problem:
                # The last line, without the path of the folder.
                last = problem.strip().splitlines()[-1].replace(str(folder), "HERE")
                problems[f"{name}_{share}"] = last[:400]
                log(f"full_disk {name} at {share}: {problem}")
            shutil.rmtree(folder, ignore_errors=True)
    log(f"full_disk: {count} disks, {len(problems)} wrong")
    more = {"problems": problems} if problems else {}
    by = "a tmpfs" if mounted else "a limit of the size of files"
    return {"count": count, "failed": len(problems), "hangs": hangs, "by": by, **more}


def _commands(world: World, disk: pathlib.Path) -> dict[str, tuple[str, list[str]]]:
    """Return {name: (script, arguments)}; each writes below `disk` only."""
    photos, run = world.folder / "photos", f"--workdir={world.run}"
    export = f"--export={world.folder / 'export'}"
    source = world.folder / "weights" / "v.safetensors"
    flowers = world.folder / "flowers"
    fast = f"{CONFIG}:{{'stage_order': ('head',), 'stages.head.epochs': 1}}"
    cached = [fast, f"--config.data.cache_dir={disk / 'cache'}"]
    maps = [export, f"--images={photos}", "--methods=saliency,grad_cam", "--overlays"]
    return {
        "train": ("train", jobs.train_command(world, disk / "run")),
        "export": ("export", [run, f"--out={disk / 'out'}"]),
        "attribute": ("attribute", [*maps, f"--out={disk / 'maps'}"]),
        "cache": ("train", [*cached, f"--workdir={disk / 'run'}"]),
        "convert": (
            "convert_weights",
            ["--model=vgg16", f"--source={source}", f"--out={disk / 'out'}"],
        ),  # fmt: skip
        "convert_h5": (
            "convert_weights",
            [
                "--model=vgg16",
                f"--source={source.with_suffix('.h5')}",
                "--to=keras_h5",
                f"--out={disk / 'out.h5'}",
            ],
        ),  # fmt: skip
        "evaluate": ("evaluate", [run, f"--out={disk / 'out'}"]),
        "explain": (
            "predict",
            [export, "--explain", f"--out={disk / 'out'}", str(photos)],
        ),  # fmt: skip
        "prepare": (
            "prepare_data",
            [f"--source={flowers}", f"--data_dir={disk / 'out'}", "--noverify"],
        ),  # fmt: skip
    }


def _fill(
    world: World, folder: pathlib.Path, name: str, share: float, mounted: bool
) -> str | None:
    """Run a script on a disk that is too small, then with space; return the problem."""
    with _disk(folder / "disk", mounted) as (disk, resize):
        script, arguments = _commands(world, disk)[name]
        needed = _needed(world, name)
        largest = 0
        if mounted:
            resize(max(4096, int(share * needed[0])))
        else:
            largest = max(1, int(share * needed[1]))
        completed = children.run(script, arguments, folder / "small", largest=largest)
        problem = _failure(completed, disk)
        if problem is None or problem:
            return problem
        resize(_SPACE)
        completed = children.run(script, arguments, folder / "large")
        if completed.returncode:
            return f"fails with space: {completed.stderr.strip()[-300:]}"
        left = [p.name for p in disk.rglob("*") if "partial" in p.name or ".tmp" in p.name]  # fmt: skip
        if left:
            return f"left behind: {left}"
        if name == "train":
            expected = jobs.reference("train", world).content
            return jobs.difference(jobs.train_content(disk / "run"), expected)
    return ""


def _failure(completed, disk: pathlib.Path) -> str | None:
    """Return what is wrong with how a script ended on a full disk."""
    if completed.returncode == 0:
        return None
    if completed.returncode == children.HANG:
        return "hang"
    text = error_text(completed.stderr)
    if "Traceback" in completed.stderr:
        return f"traceback: {completed.stderr[-300:]}"
    if len(error_lines(completed.stderr)) != 1:
        return f"not one line: {completed.stderr[-300:]}"
    return "" if str(disk) in text else f"the path is not named: {text}"


_NEEDED: dict[str, tuple[int, int]] = {}


def _needed(world: World, name: str) -> tuple[int, int]:
    """Return the bytes of all files that a script leaves, and of the largest."""
    if name not in _NEEDED:
        folder = world.folder / "full_disk" / f"{name}_whole"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        script, arguments = _commands(world, folder)[name]
        completed = children.run(script, arguments, folder / "whole")
        if completed.returncode:
            raise RuntimeError(completed.stderr)
        sizes = [p.stat().st_size for p in folder.rglob("*") if p.is_file()]
        pages = sum(-(-size // 4096) * 4096 for size in sizes)  # as a tmpfs counts
        _NEEDED[name] = pages, max(sizes)
        shutil.rmtree(folder)
    return _NEEDED[name]


def _may_mount(folder: pathlib.Path) -> bool:
    """Return whether this process may mount a tmpfs."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        with _disk(folder / "mount_test", True):
            return True
    return False


@contextlib.contextmanager
def _disk(
    path: pathlib.Path, mounted: bool
) -> Iterator[tuple[pathlib.Path, Callable[[int], object]]]:
    """Mount a tmpfs, and yield it with a function that changes its size in bytes."""
    path.mkdir(parents=True, exist_ok=True)
    if not mounted:
        yield path, lambda size: None
        return
    _mount("mount", "-t", "tmpfs", "-o", f"size={_SPACE}", "tmpfs", path)
    try:
        yield path, lambda size: _mount("mount", "-o", f"remount,size={size}", path)
    finally:
        _mount("umount", "--lazy", path)


def _mount(*arguments: object) -> None:
    command: Sequence[str] = [str(argument) for argument in arguments]
    subprocess.run(command, check=True, capture_output=True)
