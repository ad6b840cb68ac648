"""Records of results that are damaged, and run directories that cannot be recorded."""

import json
import pathlib
import shutil
from collections.abc import Callable, Iterator

from tests.stress import damage
from tests.stress.cases import Case
from tests.stress.world import World

OWNER = "explain"
Change = Callable[[pathlib.Path], object]


def cases() -> Iterator[Case]:
    """Yield all cases of records."""
    ways = {**damage.GONE, "list": damage.write(b"[]"), "null": damage.write(b"null")}
    ways["number"] = damage.write(b'{"small": 3}')
    ways["text"] = damage.write(b'{"small": "x"}')
    yield from _maximised(ways)
    yield from _combined(ways)
    yield from _recorded()


def _maximised(ways: dict[str, Change]) -> Iterator[Case]:
    """Yield files of results to which an entry is added; nothing of them is lost."""

    def kept(completed, folder: pathlib.Path, world: World) -> None:
        path = folder / "results" / "activation_max.json"
        assert "plain" in json.loads(path.read_text())["small"], "not recorded"

    for name, change in ways.items():

        def prepare(folder: pathlib.Path, world: World, change=change) -> None:
            (folder / "results").mkdir()
            path = folder / "results" / "activation_max.json"
            path.write_text('{"small": {"other": {"recognised": 5}}}')
            change(path)

        flags = ["--workdir={world}/run", "--observer={world}/run", "--form=plain"]
        flags += ["--classes=0", "--steps=1", "--out={folder}/out"]
        flags += ["--results={folder}/results"]
        gone = name in ("dangling_link", "folder")
        expect = "either" if gone else "refused"
        yield Case(f"maximised_{name}", "activation_max", flags, expect, "activation_max", prepare, kept)  # fmt: skip


def _combined(ways: dict[str, Change]) -> Iterator[Case]:
    """Yield ensembles in which the result of one run is damaged."""
    for name, change in ways.items():

        def prepare(folder: pathlib.Path, world: World, change=change) -> None:
            for run in ("a", "b"):
                shutil.copytree(world.run, folder / run)
            change(folder / "b" / "result.json")

        flags = ["--workdirs={folder}/a,{folder}/b", "--json"]
        yield Case(f"ensemble_{name}", "ensemble", flags, "refused", r"result\.json|/b\b", prepare)  # fmt: skip


def _recorded() -> Iterator[Case]:
    """Yield patterns of --record that match no finished run; nothing is written."""
    for name, where in {
        "absent": "absent",
        "no_match": "{folder}/none*",
        "photos": "{world}/photos",
        "export": "{world}/export",
        "file": "{world}/photos/daisy/0.png",
        "zero": "a\0b",
    }.items():
        flags = [f"--record={where}"]
        yield Case(f"record_{name}", "reproduce", flags, "refused", r"absent|none|photos|export|0\.png|record|null|a.b")  # fmt: skip
    for name, flags in {
        "none": [],
        "only": ["--out={folder}/out", "--only=nothing", "--dry_run"],
        "seeds": ["--out={folder}/out", "--seeds=x", "--dry_run"],
        "seeds_negative": ["--out={folder}/out", "--seeds=-1", "--dry_run"],
        "budget": ["--out={folder}/out", "--budget=nothing", "--dry_run"],
        "record_empty": ["--record="],
    }.items():
        yield Case(f"reproduce_{name}", "reproduce", flags, "refused", name.split("_")[0] + "|out|nothing")  # fmt: skip
    for name, flags in {
        "only": ["--out={folder}/out", "--only=nothing", "--dry_run"],
        "results": ["--out={folder}/out", "--results={folder}/absent/x", "--dry_run"],
    }.items():
        expect = "either" if name == "results" else "refused"
        yield Case(
            f"ablation_script_{name}", "ablation", flags, expect, "nothing|absent"
        )
