"""Weight files of a narrow VGG16 that are damaged, hostile or unusual.

Each is converted; an accepted file gives the intact variables to the last bit.
"""

import io
import json
import os
import pathlib
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tests.stress import damage
from tests.stress.cases import MARKER, Case, Check
from tests.stress.world import CONFIG, World, vgg_variables

OWNER = "weights"
FILES = ("v.h5", "v.weights.h5", "v.keras", "v.pth", "v.safetensors")
Change = Callable[[pathlib.Path], object]


def written(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """Return the converted variables by name."""
    from flax import traverse_util

    from seeflower_jax.pretrained import converted

    return traverse_util.flatten_dict(converted.load(folder / "out")[1], sep="/")


def same(completed, folder: pathlib.Path, world: World) -> None:
    """Check that the variables are the intact ones."""
    from flax import traverse_util

    expected = traverse_util.flatten_dict(vgg_variables(), sep="/")
    actual = written(folder)
    for name, array in expected.items():
        assert name in actual, f"{name} is missing"
        np.testing.assert_array_equal(actual[name], array, err_msg=name)


def finite(completed, folder: pathlib.Path, world: World) -> None:
    """Check that the variables are numbers; a flipped bit of a weight is no error."""
    for name, array in written(folder).items():
        assert np.isfinite(array).all(), f"{name} is not finite"


def case(
    name: str,
    file: str,
    change: Change = lambda path: None,
    expect: str = "either",
    check: Check = same,
    names: str = "",
) -> Case:
    """Return the case of a copy of a weight file that `change` changes."""

    def prepare(folder: pathlib.Path, world: World) -> None:
        intact = world.folder / "weights" / file
        if intact.exists():
            (folder / file).write_bytes(intact.read_bytes())
        change(folder / file)

    arguments = ["--model=vgg16", f"--source={{folder}}/{file}", "--out={folder}/out"]
    names = names or file.replace(".", r"\.")
    return Case(name, "convert_weights", arguments, expect, names, prepare, check)


def cases() -> Iterator[Case]:
    """Yield all cases of weight files."""
    for file in FILES:
        yield case(f"{file}_intact", file, expect="accepted")
        for name, change in damage.GONE.items():
            yield case(f"{file}_{name}", file, change, "refused")
        for less in (1, 8, 99):
            yield case(f"{file}_less_{less}", file, damage.cut(1, less))
        for name, change in damage.flips(8):
            yield case(f"{file}_{name}", file, change, check=finite)
        for seed in range(4):
            head = damage.flip(200 + seed, 2, 0, 0.02)
            yield case(f"{file}_head_flip_{seed}", file, head, check=finite)
        for other in FILES:
            if pathlib.Path(other).suffix != pathlib.Path(file).suffix:
                yield _renamed(file, other)
        yield case(f"{file}_with_rubbish", file, damage.append(b"rubbish" * 99))
    yield from _hostile()
    yield from _torch()
    yield from _safetensors()
    yield from _other_formats()
    yield from _other_doors()


def _renamed(file: str, other: str) -> Case:
    """Return the case of a file under the name of another format."""

    def prepare(folder: pathlib.Path, world: World) -> None:
        content = (world.folder / "weights" / other).read_bytes()
        (folder / file).write_bytes(content)

    like = case(f"{file}_is_{other}", file)
    return Case(like.name, like.script, like.arguments, "either", like.names, prepare, same)  # fmt: skip


class _Touch:
    """A value whose unpickling creates a file."""

    def __init__(self, path: pathlib.Path, how: str):
        self.path, self.how = path, how

    def __reduce__(self) -> tuple:
        import subprocess

        path = str(self.path)
        return {
            "system": (os.system, (f"touch {path}",)),
            "popen": (subprocess.check_call, (["touch", path],)),
            "eval": (eval, (f"open({path!r}, 'w')",)),
            "exec": (exec, (f"open({path!r}, 'w').close()",)),
            "open": (open, (path, "w")),
            "path": (pathlib.Path.touch, (self.path,)),
            "numpy": (np.save, (path, np.zeros(1))),
        }[self.how]


def _hostile() -> Iterator[Case]:
    """Yield pickles that would create a file if they were executed."""
    import torch

    for how in ("system", "popen", "eval", "exec", "open", "path", "numpy"):
        for form in ("zip", "plain", "legacy", "npz", "npy"):
            file = f"v.{form}" if form.startswith("np") else "v.pth"

            def change(path: pathlib.Path, how: str = how, form: str = form) -> None:
                value: Any = {"features.0.weight": _Touch(path.parent / MARKER, how)}
                if form == "plain":
                    path.write_bytes(pickle.dumps(value))
                elif form == "npz":
                    np.savez(path, **{k: np.array([v]) for k, v in value.items()})
                elif form == "npy":
                    np.save(path, np.array([value], object))
                else:
                    torch.save(
                        value, path, _use_new_zipfile_serialization=form == "zip"
                    )

            yield case(f"hostile_{how}_{form}", file, change, "refused")
    for ending in ("h5", "keras", "safetensors"):
        file = f"v.{ending}"

        def change(path: pathlib.Path) -> None:
            path.write_bytes(pickle.dumps(_Touch(path.parent / MARKER, "open")))

        yield case(f"hostile_as_{ending}", file, change, "refused")

    def lambda_layer(path: pathlib.Path) -> None:
        code = f"open({str(path.parent / MARKER)!r}, 'w')"
        layer = {"class_name": "Lambda", "config": {"function": code}}
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("config.json", json.dumps(layer))

    yield case("hostile_keras_lambda", "v.keras", lambda_layer)


def _torch() -> Iterator[Case]:
    """Yield state dicts that are wrapped, incomplete or of other types."""
    import torch

    def changed(change: Callable[[dict], Any]) -> Change:
        def apply(path: pathlib.Path) -> None:
            state = torch.load(path, weights_only=True)
            torch.save(change(state), path)

        return apply

    first, third, last = "features.0.weight", "features.5.weight", "classifier.6.bias"
    huge = {first: torch.full((3, 3, 3, 3), 1e300, dtype=torch.float64)}
    rows: list[tuple[str, Callable[[dict], Any], str, Check]] = [
        ("module", lambda s: {f"module.{k}": v for k, v in s.items()}, "accepted", same),
        ("orig_mod", lambda s: {f"_orig_mod.{k}": v for k, v in s.items()}, "accepted", same),
        ("both", lambda s: {f"module._orig_mod.{k}": v for k, v in s.items()}, "accepted", same),
        ("state_dict", lambda s: {"epoch": 3, "state_dict": s}, "accepted", same),
        ("model_state_dict", lambda s: {"model_state_dict": s}, "either", same),
        ("model", lambda s: {"model": s, "optimizer": {}}, "either", same),
        ("nested_deep", lambda s: {"a": {"b": {"c": s}}}, "either", same),
        ("parameters", lambda s: {k: torch.nn.Parameter(v) for k, v in s.items()}, "accepted", same),
        ("float64", lambda s: {k: v.double() for k, v in s.items()}, "accepted", same),
        ("float64_huge", lambda s: s | {first: s[first].double() * 1e300}, "refused", same),
        ("float16", lambda s: {k: v.half() for k, v in s.items()}, "accepted", finite),
        ("bfloat16", lambda s: {k: v.bfloat16() for k, v in s.items()}, "accepted", finite),
        ("complex", lambda s: s | {first: s[first] * (1 + 2j)}, "refused", same),
        ("integers", lambda s: s | {first: s[first].int()}, "either", finite),
        ("bool", lambda s: s | {first: s[first] > 0}, "either", finite),
        ("quantised", lambda s: s | {first: torch.quantize_per_tensor(s[first], 0.1, 0, torch.qint8)}, "either", finite),
        ("sparse", lambda s: s | {first: s[first].to_sparse()}, "either", same),
        ("meta", lambda s: s | {first: s[first].to("meta")}, "refused", same),
        ("transposed", lambda s: s | {third: s[third].transpose(0, 1).contiguous()}, "refused", same),
        ("strided", lambda s: s | {first: s[first].flip(0).flip(0)}, "accepted", same),
        ("nan", lambda s: s | {first: s[first] * np.nan}, "refused", same),
        ("inf", lambda s: s | {last: s[last] + np.inf}, "refused", same),
        ("missing", lambda s: {k: v for k, v in s.items() if k != first}, "refused", same),
        ("without_bias", lambda s: {k: v for k, v in s.items() if k != last}, "refused", same),
        ("more", lambda s: s | {"tail.weight": s[first]}, "refused", same),
        ("shape", lambda s: s | {first: s[first][:, :2]}, "refused", same),
        ("scalar", lambda s: s | {first: torch.tensor(1.0)}, "refused", same),
        ("empty_tensor", lambda s: s | {first: s[first][:0]}, "refused", same),
        ("empty", lambda s: {}, "refused", same),
        ("list", lambda s: list(s.values()), "refused", same),
        ("tensor", lambda s: s[first], "refused", same),
        ("none", lambda s: None, "refused", same),
        ("number_names", lambda s: dict(enumerate(s.values())), "refused", same),
        ("strings", lambda s: s | {first: "x"}, "refused", same),
        ("huge_only", lambda s: huge, "refused", same),
    ]  # fmt: skip
    for name, change, expect, check in rows:
        yield case(f"torch_{name}", "v.pth", changed(change), expect, check)

    def whole(path: pathlib.Path) -> None:
        torch.save(torch.nn.Linear(2, 2), path)

    def legacy(path: pathlib.Path) -> None:
        state = torch.load(path, weights_only=True)
        torch.save(state, path, _use_new_zipfile_serialization=False)

    yield case("torch_whole_network", "v.pth", whole, "refused")
    yield case("torch_legacy", "v.pth", legacy, "accepted")


def _safetensors() -> Iterator[Case]:
    """Yield safetensors with headers that lie."""
    import safetensors.numpy

    def header(change: Callable[[dict], object], raw: bytes | None = None) -> Change:
        def apply(path: pathlib.Path) -> None:
            content = path.read_bytes()
            (size,) = struct.unpack("<Q", content[:8])
            head = json.loads(content[8 : 8 + size])
            change(head)
            text = json.dumps(head).encode() if raw is None else raw
            path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + size :])

        return apply

    def arrays(
        change: Callable[[dict], object], metadata: dict | None = None
    ) -> Change:
        def apply(path: pathlib.Path) -> None:
            state = safetensors.numpy.load_file(path)
            change(state)
            safetensors.numpy.save_file(state, path, metadata)

        return apply

    first = "features.0.weight"
    lies: dict[str, Callable[[dict], object]] = {
        "offsets": lambda h: h[first].update(data_offsets=[0, 10**15]),
        "negative": lambda h: h[first].update(data_offsets=[-8, 8]),
        "overlap": lambda h: h[first].update(data_offsets=h["features.2.weight"]["data_offsets"]),
        "dtype": lambda h: h[first].update(dtype="F99"),
        "half": lambda h: h[first].update(dtype="F16"),
        "shape": lambda h: h[first].update(shape=[2**40, 2**40]),
        "shape_text": lambda h: h[first].update(shape="x"),
        "no_shape": lambda h: h[first].pop("shape"),
        "metadata_list": lambda h: h.update(__metadata__=[1]),
    }  # fmt: skip
    for name, lie in lies.items():
        yield case(f"safetensors_{name}", "v.safetensors", header(lie), "refused")
    for name, raw in {"null": b"null", "list": b"[]", "deep": b"[" * 9999}.items():
        change = header(lambda h: None, raw)
        yield case(f"safetensors_header_{name}", "v.safetensors", change, "refused")
    sizes = {"huge": 2**63, "zero": 0, "gigabytes": 8 * 2**30}
    for name, size in sizes.items():
        change = damage.write(struct.pack("<Q", size) + b"{}")
        yield case(f"safetensors_size_{name}", "v.safetensors", change, "refused")
    keep = arrays(lambda s: None, {"spec": "not json"})
    yield case("safetensors_foreign_spec", "v.safetensors", keep, "accepted")
    for name, spec in {"list": "[]", "empty": "{}", "name": '{"name": "vgg16"}', "other": '{"torch_dtype": "float32"}'}.items():  # fmt: skip
        change = arrays(lambda s: None, {"spec": spec})
        yield case(f"safetensors_spec_{name}", "v.safetensors", change, "either")
    changes: dict[str, tuple[Callable[[dict], object], str]] = {
        "nan": (lambda s: s.update({first: s[first] * np.nan}), "refused"),
        "float64_huge": (lambda s: s.update({first: s[first] * 1e300}), "refused"),
        "shape2": (lambda s: s.update({first: s[first][:2].copy()}), "refused"),
        "none": (lambda s: s.clear(), "refused"),
        "float64": (lambda s: s.update({first: s[first].astype(float)}), "accepted"),
        "module": (lambda s: [s.update({f"module.{k}": s.pop(k)}) for k in list(s)], "accepted"),
    }  # fmt: skip
    for name, (change, expect) in changes.items():
        if name == "float64_huge":

            def change(s: dict) -> None:
                s[first] = s[first].astype(float) * 1e300

        yield case(f"safetensors_{name}", "v.safetensors", arrays(change), expect)


def _npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _other_formats() -> Iterator[Case]:
    """Yield formats that no reader knows, and paths that are no files."""
    rows = {
        "v.npz": _npz(a=np.zeros(3)),
        "v.onnx": b"\x08\x07",
        "v.pb": b"\x08\x01",
        "v.ckpt": pickle.dumps({}),
        "v.tar.gz": b"\x1f\x8b",
        "v": b"nothing",
        "v.bin": b"nothing",
        "v.PTH": b"nothing",
    }
    for file, content in rows.items():
        yield case(f"format_{file}", file, damage.write(content), "refused")
    yield case("absent", "absent.pth", expect="refused")
    yield case("pipe", "v.h5", lambda p: (p.unlink(), os.mkfifo(p)), "refused")  # fmt: skip
    yield case("endless", "v.pth", lambda p: (p.unlink(), p.symlink_to("/dev/zero")), "refused")  # fmt: skip


def _other_doors() -> Iterator[Case]:
    """Yield damaged files as `predict` and `train` get them."""
    for like in (
        case("nan", "v.pth", damage.cut(0.5), "refused"),
        case("html", "v.h5", damage.write(damage.HTML), "refused"),
        case("lfs", "v.safetensors", damage.write(damage.LFS), "refused"),
        case("folder", "v.keras", damage.to_folder, "refused"),
    ):
        file = like.arguments[1].rpartition("/")[2]
        image = "{world}/photos/daisy/0.png"
        predict = ["--model=vgg16", f"--weights={{folder}}/{file}", image]
        yield Case(f"predict_{like.name}", "predict", predict, "refused", like.names, like.prepare)  # fmt: skip
        train = [CONFIG, "--config.model.name=vgg16", "--config.model.width=0.05", f"--config.init.weights={{folder}}/{file}", "--workdir={folder}/run"]  # fmt: skip
        yield Case(f"train_{like.name}", "train", train, "refused", like.names, like.prepare)  # fmt: skip
