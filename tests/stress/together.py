"""Run two processes at once on the same folder.

counts = two_at_once(world, log, False, 2)

Both have to end, and one or both have to succeed. One that fails says why in one line
that names the folder. The result is that of one process alone.
"""

import hashlib
import http.server
import json
import os
import pathlib
import shutil
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

from tests import harness
from tests.stress import children, jobs
from tests.stress.cases import error_lines, error_text
from tests.stress.world import World

Pair = Callable[[World, pathlib.Path], str]
DELAYS = (0.0, 0.5)  # seconds between the two starts


def two_at_once(world: World, log: Callable, short: bool, _: int) -> dict:
    """Run all pairs, and return the counts and the problems."""
    pairs = {"train": _train, "maps": _maps}
    if not short:
        pairs |= {
            "cache": _cache,
            "export": _export,
            "download": _download,
            "convert": _convert,
            "evaluate": _evaluate,
        }
        pairs |= {"prepare": _prepare, "explain": _explain}
    count, problems, hangs = 0, {}, 0
    for name, pair in pairs.items():
        for delay in DELAYS[: 1 if short else None]:
            folder = world.folder / "two_at_once" / f"{name}_{delay}"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            _delay.seconds = delay
            try:
                problem = pair(world, folder)
            except Exception as error:
                problem = f"the result cannot be read: {error!r}"
            count, hangs = count + 1, hangs + (problem == "hang")
            if problem:
                problems[f"{name}_{delay}"] = " ".join(problem.split())[:400]
                log(f"two_at_once {name} after {delay} s: {problem}")
    log(f"two_at_once: {count} pairs, {len(problems)} wrong")
    by_kind = {"problems": problems} if problems else {}
    return {"count": count, "failed": len(problems), "hangs": hangs, **by_kind}


class _Delay(threading.local):
    seconds = 0.0


_delay = _Delay()


def _both(
    script: str, commands: Sequence[Sequence[str]], folder: pathlib.Path
) -> tuple[list[harness.Completed], str]:
    """Run a script twice at once; return what both left, and what is wrong with it."""
    one = children.start(script, commands[0], folder / "one")
    time.sleep(_delay.seconds)
    two = children.start(script, commands[1], folder / "two")
    ended = [one.end(), two.end()]
    return ended, _ends(ended)


def _ends(ended: Sequence[harness.Completed]) -> str:
    """Return what is wrong with how two processes ended."""
    if any(completed.returncode == children.HANG for completed in ended):
        return "hang"
    failed = [completed for completed in ended if completed.returncode]
    if len(failed) == len(ended):
        return f"both failed: {failed[0].stderr[-300:]}"
    for completed in failed:
        text = error_text(completed.stderr)
        if "Traceback" in completed.stderr or len(error_lines(completed.stderr)) != 1:
            return f"not one line: {completed.stderr[-300:]}"
        if "two_at_once" not in text:  # part of the path
            return f"the folder is not named: {text}"
    return ""


def _train(world: World, folder: pathlib.Path) -> str:
    """Train in one run directory."""
    run = folder / "run"
    _, problem = _both("train", [jobs.train_command(world, run)] * 2, folder)  # fmt: skip
    return problem or _differs(world, run)


def _cache(world: World, folder: pathlib.Path) -> str:
    """Train in two run directories with one pixel cache, which both must fill."""
    commands = [
        [
            *jobs.train_command(world, folder / name),
            f"--config.data.cache_dir={folder}/cache",
        ]
        for name in ("a", "b")
    ]
    ended, problem = _both("train", commands, folder)
    if problem or any(completed.returncode for completed in ended):
        return problem or f"one failed: {ended}"
    left = [path.name for path in (folder / "cache" / "pixels").iterdir()]
    if sum(name.endswith(".npy") for name in left) != 1 or len(left) > 2:
        return f"the cache has {left}"
    return _differs(world, folder / "a") or _differs(world, folder / "b")


def _differs(world: World, run: pathlib.Path) -> str:
    """Return how a run differs from one that was alone."""
    expected = jobs.reference("train", world).content
    return jobs.difference(jobs.train_content(run), expected)


def _maps(world: World, folder: pathlib.Path) -> str:
    """Compute maps in one folder."""
    command = jobs.JOBS["attribute"].arguments(world, folder)
    _, problem = _both("attribute", [command] * 2, folder)
    expected = jobs.reference("attribute", world).content
    return problem or jobs.difference(jobs.map_content(folder), expected)


def _export(world: World, folder: pathlib.Path) -> str:
    """Export to one folder."""
    command = [f"--workdir={world.run}", f"--out={folder / 'out'}"]
    _, problem = _both("export", [command] * 2, folder)
    left = sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name != "out")
    name = "parameters.safetensors"
    same = _hash(folder / "out" / name) == _hash(world.folder / "export" / name)
    return problem or ("" if same else "other parameters") or ", ".join(left)


def _convert(world: World, folder: pathlib.Path) -> str:
    """Convert weights to one folder."""
    from tests.stress.kinds import weights

    source = world.folder / "weights" / "v.safetensors"
    command = ["--model=vgg16", f"--source={source}", f"--out={folder / 'out'}"]
    ended, problem = _both("convert_weights", [command] * 2, folder)
    if not problem:
        weights.same(ended[0], folder, world)
    return problem


def _evaluate(world: World, folder: pathlib.Path) -> str:
    """Evaluate one run."""
    run = shutil.copytree(world.run, folder / "run")
    for path in run.glob("logits_*"):
        path.unlink()
    ended, problem = _both("evaluate", [[f"--workdir={run}", "--json"]] * 2, folder)
    printed = [json.loads(c.stdout)["loss"] for c in ended if not c.returncode]
    expected = world.result["test"]["loss"]
    same = np.allclose(printed, expected, rtol=1e-5)
    return problem or ("" if same else f"losses {printed} for {expected}")


def _explain(world: World, folder: pathlib.Path) -> str:
    """Write the report of one run."""
    run = shutil.copytree(world.run, folder / "run")
    (run / "report.html").unlink()
    _, problem = _both("report", [[f"--workdir={run}"]] * 2, folder)
    text = (run / "report.html").read_text()
    return problem or ("" if "</html>" in text[-1000:] else "the page is incomplete")


def _prepare(world: World, folder: pathlib.Path) -> str:
    """Write the data set of tensorflow-datasets to one folder."""
    command = [f"--source={world.folder / 'flowers'}", f"--data_dir={folder / 'out'}", "--noverify"]  # fmt: skip
    _, problem = _both("prepare_data", [command] * 2, folder)
    actual = list((folder / "out").rglob("dataset_info.json"))
    return problem or ("" if len(actual) == 1 else f"{len(actual)} data sets")


def _download(world: World, folder: pathlib.Path) -> str:
    """Download one file, from a slow server of this process."""
    content = np.random.default_rng(0).bytes(3_000_000)
    digest = hashlib.sha256(content).hexdigest()
    with _Server(content) as address:
        code = (
            "import sys; from seeflower_jax import download; "
            "download.fetch(*sys.argv[1:3], sha256=sys.argv[3])"
        )
        results: list[harness.Completed] = []

        def fetch() -> None:
            arguments = ["-c", code, address, folder / "file.bin", digest]
            results.append(harness.run_python(*arguments))

        threads = [threading.Thread(target=fetch) for _ in range(2)]
        for thread in threads:
            thread.start()
            time.sleep(_delay.seconds)
        for thread in threads:
            thread.join(children.TIME_LIMIT)
    if len(results) < 2:
        return "hang"
    failed = [r.stderr.strip().splitlines()[-1] for r in results if r.returncode]
    left = sorted(path.name for path in folder.iterdir())
    if failed or _hash(folder / "file.bin") != digest:
        return f"one failed or got other content: {failed}"
    partial = [name for name in left if "partial" in name]
    return f"left behind: {partial}" if partial else ""


class _Server:
    """A server on this machine that sends a file slowly, and takes ranges."""

    def __init__(self, content: bytes):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = self.headers.get("Range", "bytes=0-")
                start = int(asked.removeprefix("bytes=").rstrip("-"))
                if start >= len(content):
                    self.send_error(416)
                    return
                self.send_response(206)
                self.send_header("Content-Length", str(len(content) - start))
                self.end_headers()
                for place in range(start, len(content), 200_000):
                    self.wfile.write(content[place : place + 200_000])
                    time.sleep(0.1)

            def log_message(self, *_) -> None:
                """Say nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def __enter__(self) -> str:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self._server.server_port}/file.bin"

    def __exit__(self, *_) -> None:
        self._server.shutdown()


def _hash(path: pathlib.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if os.path.exists(path) else ""
