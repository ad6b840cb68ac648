"""Flags of the other scripts with values that make no sense."""

import json
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from tests.stress.cases import Case, Check
from tests.stress.world import World

OWNER = "explain"
EXPORT = ["--export={world}/export", "--images={world}/photos/daisy/0.png"]
NUMBERS = ("nan", "inf", "-1", "0", "", "x", "1e999", "999999999999")


def owner(name: str) -> str:
    """Return whose a case is."""
    return "run" if name.startswith(("evaluate", "predict", "ensemble")) else OWNER


def maps(completed, folder: pathlib.Path, world: World) -> None:
    """Check that each map is finite and is where the index says."""
    from seeflower_jax.explain.store import MapStore

    store = MapStore.open(folder / "out")
    lines = list(store.lines())
    assert lines, "no maps"
    keys = [(line["method"], line["image"]) for line in lines]
    assert len(keys) == len(set(keys)), "maps are listed more than once"
    for line in lines:
        assert np.isfinite(store.read(line)).all(), f"{line['method']} is not finite"
        assert np.asarray(store.read(line)).any(), f"{line['method']} is zero"


def row(
    name: str,
    script: str,
    arguments: Sequence[str],
    expect: str = "refused",
    names: str = "",
    check: Check | None = None,
) -> Case:
    """Return a case with --out in its own folder."""
    more = {"check": check} if check else {}
    return Case(f"{script}_{name}", script, arguments, expect, names, **more)


def cases() -> Iterator[Case]:
    """Yield all cases of options."""
    yield from _attribute()
    yield from _evaluate()
    yield from _activation_max()
    yield from _attribute_eval()
    yield from _others()


def _attribute() -> Iterator[Case]:
    from seeflower_jax.attribution import registry

    def of(name: str, *flags: str, expect: str = "refused", names: str = "") -> Case:
        arguments = [*EXPORT, "--out={folder}/out", *flags]
        return row(name, "attribute", arguments, expect, names, maps)

    yield of("intact", expect="accepted")
    for method in registry.METHODS:
        for option in registry.options_of(method):
            key = f"{method}.{option}"
            for value in NUMBERS:
                # A huge number of steps or channels is valid, and takes long.
                if value == "999999999999":
                    continue
                refused = value in ("nan", "inf", "", "x", "1e999")
                flags = [f"--methods={method}", f"--options={key}={value}"]
                expect = "refused" if refused else "either"
                yield of(f"{key}={value}", *flags, expect=expect, names=option)
    for name, text in {
        "no_value": "occlusion.window",
        "no_option": "occlusion.=3",
        "no_method": "window=3",
        "unknown": "nothing.window=3",
        "typo": "occlusion.windw=3",
        "unused": "occlusion.window=8",
        "twice": "occlusion.window=8,occlusion.window=16",
        "fraction": "occlusion.window=8.5",
    }.items():
        expect = "either" if name in ("unused", "twice") else "refused"
        methods = "grad_cam" if name == "unused" else "occlusion"
        yield of(f"option_{name}", f"--methods={methods}", f"--options={text}", expect=expect, names=text.split("=")[0].split(".")[0])  # fmt: skip
    for name, text in {"twice": "saliency,saliency", "unknown": "salency", "empty": "", "spaces": " saliency", "blank": ",", "upper": "Saliency", "all_and_more": "saliency,nothing"}.items():  # fmt: skip
        expect = "either" if name in ("twice", "spaces", "upper") else "refused"
        yield of(f"methods_{name}", f"--methods={text}", expect=expect, names="method|saliency|salency|nothing")  # fmt: skip
    for text in ("nothing", "-1", "3", "999", "1.5", "nan", "dasy", "", "true "):
        expect = "either" if text == "" else "refused"
        yield of(f"target_{text}", f"--target={text}", expect=expect, names=f"class|target|{text}")  # fmt: skip
    yield of("target_1", "--target=1", expect="accepted")
    for text in ("nothing", "", "block9", "0", "logits"):
        yield of(f"layer_{text}", f"--layer={text}", expect="either" if not text else "refused", names=f"layer|{text}")  # fmt: skip
    for flag in ("batch_size", "limit"):
        for value in ("nan", "inf", "-1", "0", "", "x", "1.5"):
            yield of(f"{flag}={value}", f"--{flag}={value}", names=flag)
    for value in ("float64", "", "int8", "nan"):
        yield of(f"dtype={value}", f"--dtype={value}", names="dtype")
    folder = "{world}/photos/daisy/0.png"
    for name, flags in {
        "out_empty": [*EXPORT, "--out="],
        "out_none": EXPORT,
        "out_file": [*EXPORT, f"--out={folder}"],
        "out_below_file": [*EXPORT, f"--out={folder}/x"],
        "out_null": [*EXPORT, "--out=/dev/null"],
        "out_zero": [*EXPORT, "--out=a\0b"],
        "images_empty": ["--export={world}/export", "--images=", "--out={folder}/out"],
        "images_none": ["--export={world}/export", "--out={folder}/out"],
        "split_of_export": [
            "--export={world}/export",
            "--split=test",
            "--out={folder}/out",
        ],  # fmt: skip
        "split_unknown": [
            "--workdir={world}/run",
            "--split=tset",
            "--out={folder}/out",
        ],
        "two_networks": [*EXPORT, "--workdir={world}/run", "--out={folder}/out"],
        "no_network": [EXPORT[1], "--out={folder}/out"],
        "model_only": ["--model=vgg16", EXPORT[1], "--out={folder}/out"],
    }.items():
        pattern = r"out|0\.png|images|split|workdir|model|export|weights|null"
        yield row(name, "attribute", flags, "refused", pattern)


def _evaluate() -> Iterator[Case]:
    def finite(completed, folder: pathlib.Path, world: World) -> None:
        metrics = json.loads(completed.stdout)
        assert np.isfinite([metrics["loss"], metrics["top1"]]).all(), metrics

    def of(name: str, *flags: str, expect: str = "refused", names: str = "") -> Case:
        arguments = ["--workdir={world}/run", "--out={folder}/out", "--json", *flags]
        return row(name, "evaluate", arguments, expect, names, finite)

    yield of("intact", expect="accepted")
    for text in ("-5", "x", "32:0", "32:2", "32:-1", "32:nan", "32:inf", "nan", "1e9", ":", "32:x", "32.5", "1000000", "32,", "-5:0.5", "0:0"):  # fmt: skip
        yield of(f"views={text}", f"--views={text}", expect="either" if text in ("32,", "32.5") else "refused", names="view|size|crop")  # fmt: skip
    yield of("views=0", "--views=0", expect="either", names="view")
    yield of("views=48:0.5", "--views=48:0.5,32", expect="accepted")
    for text in ("tset", "", "all", "0"):
        yield of(f"split={text}", f"--split={text}", names="split")
    yield of("crop_views", "--crop", "--views=48", names="crop")
    yield of("hflip", "--hflip=maybe", names="hflip")
    yield of("ablation", "--ablation=x", names="ablation")
    yield of("data_dir", "--data_dir=absent", names="absent")
    for name, flags in {
        "out_file": ["--workdir={world}/run", "--out={world}/photos/daisy/0.png"],
        "no_run": ["--workdir={world}/photos"],
        "absent": ["--workdir=absent"],
        "none": [],
        "empty": ["--workdir="],
    }.items():
        yield row(name, "evaluate", flags, "refused", r"workdir|photos|absent|0\.png|run directory")  # fmt: skip


def _activation_max() -> Iterator[Case]:
    def of(name: str, *flags: str, expect: str = "refused", names: str = "") -> Case:
        arguments = ["--workdir={world}/run", "--out={folder}/out", "--steps=2", *flags]
        return row(name, "activation_max", arguments, expect, names)

    for flag in ("steps", "seeds", "batch_size"):
        for value in ("nan", "-1", "0", "", "x", "1.5"):
            yield of(f"{flag}={value}", f"--{flag}={value}", names=flag)
    for value in ("nan", "-1", "", "x", "1", "7", "1000000000"):
        expect = "either" if value == "7" else "refused"
        yield of(f"size={value}", f"--size={value}", expect=expect, names="size")
    for value in ("nothing", "9", "-1", "nan", "daisy,daisy", ",", "1.5"):
        expect = "either" if value == "daisy,daisy" else "refused"
        yield of(f"classes={value}", f"--classes={value}", expect=expect, names="class")
    yield of("classes=", "--classes=", "--size=32", expect="either", names="class")
    yield of("form", "--form=nothing", names="form")
    yield of(
        "observer", "--observer=absent", "--classes=0", "--size=32", names="absent"
    )


def _attribute_eval() -> Iterator[Case]:
    def of(name: str, *flags: str, expect: str = "refused", names: str = "") -> Case:
        arguments = ["--workdir={world}/run", "--out={folder}/out", *flags]
        return row(name, "attribute_eval", arguments, expect, names)

    for flag in ("limit", "batch_size", "grid_size"):
        for value in ("nan", "-1", "", "x", "1.5"):
            yield of(f"{flag}={value}", f"--{flag}={value}", names=flag)
    for flag in ("methods", "metrics"):
        for value in ("nothing", "", ","):
            yield of(f"{flag}={value}", f"--{flag}={value}", names=f"{flag[:-1]}")
    yield of("split", "--split=train", names="split")
    yield of("layer", "--layer=nothing", "--methods=grad_cam", names="nothing")
    yield of("option", "--options=grad_cam.x=1", names="grad_cam")


def _others() -> Iterator[Case]:
    image, network = "{world}/photos/daisy/0.png", "--export={world}/export"
    for flag in ("top", "batch_size"):
        for value in ("nan", "-1", "0", "", "x", "1.5"):
            flags = [network, f"--{flag}={value}", image]
            yield row(f"{flag}={value}", "predict", flags, "refused", flag)
    for name, flags in {
        "no_image": [network],
        "no_network": [image],
        "two": [network, "--workdir={world}/run", image],
        "absent_export": ["--export=absent", image],
        "run_as_export": ["--export={world}/run", image],
        "export_as_run": ["--workdir={world}/export", image],
        "weights_as_export": ["--export={world}/weights", image],
        "unknown_model": ["--model=resnet", "--weights={world}/weights/v.h5", image],
        "out_file": [network, "--explain", f"--out={image}", image],
        "typo": [network, "--topp=1", image],
    }.items():
        yield row(name, "predict", flags, "refused", r"image|workdir|absent|run|export|weights|resnet|0\.png|topp")  # fmt: skip
    for script, flags in {
        "export": ["--workdir={world}/run", "--out={world}/export"],
        "report": ["--workdir={world}/photos"],
        "convert_weights": [
            "--model=vgg16",
            "--source={world}/weights/v.h5",
            "--out={world}/export",
        ],  # fmt: skip
        "ensemble": ["--workdirs={world}/run"],
    }.items():
        yield row("wrong_place", script, flags, "refused", "export|photos|run")
    for script in ("export", "convert_weights"):
        for name, out in {"file": image, "below": f"{image}/x", "empty": "", "null": "/dev/null/x"}.items():  # fmt: skip
            flags = ["--workdir={world}/run", f"--out={out}"]
            yield row(
                f"out_{name}", script, flags, "refused", r"out|0\.png|null|exists"
            )
