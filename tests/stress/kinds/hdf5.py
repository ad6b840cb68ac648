"""HDF5 files and Keras archives that lie, refer to other files, or are bombs."""

import pathlib
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import h5py
import numpy as np

from seeflower_jax.pretrained import keras_h5
from tests.stress import damage
from tests.stress.cases import Case
from tests.stress.kinds.weights import Change, case, finite, same
from tests.stress.world import write_keras_archive

OWNER = "weights"


def cases() -> Iterator[Case]:
    """Yield all cases of HDF5 files and Keras archives."""

    def edited(change: Callable[[h5py.File], object]) -> Change:
        def apply(path: pathlib.Path) -> None:
            with h5py.File(path, "a") as file:
                change(file)

        return apply

    def replaced(file: h5py.File, **options) -> None:
        group = file["block1_conv1"]["block1_conv1"]
        shape = group["kernel:0"].shape
        del group["kernel:0"]
        group.create_dataset("kernel:0", shape, options.pop("dtype", "f4"), **options)

    def external(file: h5py.File) -> None:
        secret = pathlib.Path(file.filename).with_name("secret")
        secret.write_bytes(np.arange(81, dtype=np.float32).tobytes())
        replaced(file, external=[(str(secret), 0, h5py.h5f.UNLIMITED)])

    def linked(file: h5py.File) -> None:
        other = str(pathlib.Path(file.filename).with_name("other.h5"))
        with h5py.File(other, "w") as target:
            target["x"] = np.ones((3, 3, 3, 3), np.float32)
        group = file["block1_conv1"]["block1_conv1"]
        del group["kernel:0"]
        group["kernel:0"] = h5py.ExternalLink(other, "x")

    def set_names(value: Any) -> Callable[[h5py.File], object]:
        return lambda file: file.attrs.create("layer_names", value)

    rows: list[tuple[str, Callable[[h5py.File], object], str]] = [
        ("external_storage", external, "refused"),
        ("external_link", linked, "refused"),
        ("bomb", lambda f: f.create_dataset("bomb", (2**40,), "f4", chunks=True, compression="gzip"), "either"),
        ("layer_missing", lambda f: f.__delitem__("block1_conv1"), "refused"),
        ("names_numbers", set_names([1, 2]), "refused"),
        ("names_text", set_names("block1_conv1"), "refused"),
        ("names_empty", set_names(np.array([], "S9")), "refused"),
        ("names_unknown", set_names([b"nothing"]), "refused"),
        ("names_removed", lambda f: f.attrs.__delitem__("layer_names"), "refused"),
        ("dtype_text", lambda f: replaced(f, dtype=h5py.string_dtype()), "refused"),
        ("dtype_complex", lambda f: replaced(f, dtype="c8"), "refused"),
        ("all_zero", replaced, "either"),
        ("nan", lambda f: replaced(f, fillvalue=np.nan), "refused"),
        ("float64_huge", lambda f: replaced(f, dtype="f8", fillvalue=1e300), "refused"),
        ("soft_link_loop", lambda f: f.__setitem__("loop", h5py.SoftLink("/loop")), "either"),
        ("more_layers", lambda f: f.create_group("more"), "either"),
    ]  # fmt: skip
    for name, change, expect in rows:
        check = finite if name in ("all_zero",) else same
        yield case(f"h5_{name}", "v.h5", edited(change), expect, check)

    def archive(**members: bytes) -> Change:
        def apply(path: pathlib.Path) -> None:
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
                for name, content in members.items():
                    file.writestr(
                        name.replace("_h5", ".h5").replace("__", "."), content
                    )

        return apply

    def bomb(path: pathlib.Path) -> None:
        with (
            zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file,
            file.open("model.weights.h5", "w", force_zip64=True) as member,
        ):
            for _ in range(4096):
                member.write(bytes(2**20))

    def h5_bomb(path: pathlib.Path) -> None:
        with h5py.File(path, "w") as file:
            options = {"chunks": (2**20,), "compression": "gzip"}
            file.create_dataset("layers/conv2d/vars/0", (2**34,), "f4", **options)

    yield case("keras_no_member", "v.keras", archive(config__json=b"{}"), "refused")
    yield case(
        "keras_empty_member", "v.keras", archive(model__weights_h5=b""), "refused"
    )
    yield case("keras_html_member", "v.keras", archive(model__weights_h5=damage.HTML), "refused")  # fmt: skip
    yield case("keras_bomb", "v.keras", bomb, "refused")
    yield case("keras_declared_huge", "v.weights.h5", h5_bomb, "refused")
    for name, layers in {"no_layers": [], "one": [("block1_conv1", {"kernel": np.zeros((3, 3, 3, 3), np.float32)})]}.items():  # fmt: skip
        yield case(f"keras_{name}", "v.keras", lambda p, v=layers: write_keras_archive(p, v), "refused")  # fmt: skip
        yield case(f"h5_{name}", "v.h5", lambda p, v=layers: keras_h5.write(p, v), "refused")  # fmt: skip
