"""Test that damaged and hostile weight files are refused with the name of the file."""

import json
import tracemalloc
import zipfile

import h5py
import numpy as np
import pytest
import safetensors.numpy
import torch

from seeflower_jax import models
from seeflower_jax.pretrained import content, keras_h5, loading, readers, writers
from seeflower_jax.pretrained.errors import WeightFileError
from seeflower_jax.pretrained.merge import MergeError
from tests import fixtures
from tests.pretrained import networks

SPEC = models.get_spec("vgg16", num_classes=3, width=networks.WIDTH)


@pytest.fixture(scope="module")
def state():
    return networks.torch_vgg().state_dict()


@pytest.mark.parametrize("name", ["v.pth", "v.h5", "v.keras", "v.safetensors"])
@pytest.mark.parametrize(
    "start,message",
    [
        (b"", "is empty"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid",
            "pointer of git-lfs.*pull",
        ),
        (b"\xef\xbb\xbf \n<!DOCTYPE html><p>", "is a web page, not a weight file"),
        (b"<HTML>", "is a web page"),
    ],
)
def test_no_weight_file_at_all(tmp_path, name, start, message):
    (tmp_path / name).write_bytes(start)
    with pytest.raises(WeightFileError, match=f"{name} .*{message}|{name} {message}"):
        readers.read("vgg16", tmp_path / name)


def test_format_of_another_suffix_is_named(tmp_path, state):
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    safetensors.numpy.save_file(arrays, tmp_path / "a.pth")
    torch.save(state, tmp_path / "b.safetensors")
    np.savez(tmp_path / "c.npz", x=np.ones(2))
    (tmp_path / "c.npz").rename(tmp_path / "c.h5")
    for name, message in {
        "a.pth": "is a safetensors file, expected a PyTorch.* rename it .*.safetensors",
        "b.safetensors": "is a PyTorch file, expected a safetensors file; .*in .pth",
        "c.h5": "is a NumPy archive, expected an HDF5 file or a .keras archive",
    }.items():
        with pytest.raises(WeightFileError, match=f"{name} {message}"):
            readers.read("vgg16", tmp_path / name)


@pytest.mark.parametrize("seed", range(12))
def test_flipped_bytes_never_leave_a_file_unnamed(tmp_path, state, seed):
    """Either an error names the file, or the network of the file is loaded."""
    rng = np.random.default_rng(seed)
    torch.save(state, tmp_path / "v.pth")
    layers = [("block1_conv1", [("kernel:0", np.ones(3)), ("bias:0", np.ones(3))])]
    fixtures.write_keras_h5(tmp_path / "v.h5", layers)
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    safetensors.numpy.save_file(arrays, tmp_path / "v.safetensors")
    for path in tmp_path.iterdir():
        whole = bytearray(path.read_bytes())
        for place in rng.integers(0, min(len(whole), 4000), 20):
            whole[place] ^= int(rng.integers(1, 256))
        path.write_bytes(whole)
        try:
            readers.read("vgg16", path)
        except WeightFileError as error:
            assert str(path) in str(error)


def _save_wrapped(path, state, wrapper):
    torch.save(wrapper(state), path)
    return loading.load_pretrained(SPEC, str(path))[1]["params"]["backbone"]


@pytest.mark.parametrize(
    "wrapper,note",
    [
        (lambda s: {f"module.{k}": v for k, v in s.items()}, "removed 'module.'"),
        (lambda s: {f"_orig_mod.module.{k}": v for k, v in s.items()}, "'_orig_mod.mo"),
        (lambda s: {"state_dict": s, "epoch": 3}, "loading 'state_dict'"),
        (lambda s: {"model": {"state_dict": s}, "optimizer": {}}, "loading 'model'"),
        (lambda s: {"state_dict": s, "best": torch.ones(1)}, "loading 'state_dict'"),
        (
            lambda s: {k.replace("features.", "features.module."): s[k] for k in s},
            "not the published file",
        ),
        (lambda s: s | {"epoch": 3}, "left out ['epoch']"),
        (
            lambda s: {k: torch.nn.Parameter(v.double()) for k, v in s.items()},
            "not the published file",
        ),
    ],
    ids=[
        "module",
        "compiled",
        "state_dict",
        "nested",
        "tensor beside it",
        "module in features",
        "more",
        "parameters",
    ],
)
def test_wrapped_state_dict(tmp_path, state, caplog, wrapper, note):
    caplog.set_level("INFO")
    params = _save_wrapped(tmp_path / "v.pth", state, wrapper)
    kernel = state["features.0.weight"].numpy().transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(params["block1_conv1"]["kernel"], kernel)
    assert note in caplog.text


def test_two_networks_in_a_file(tmp_path, state):
    both = {f"{p}.{k}": v for p in ("student", "teacher") for k, v in state.items()}
    torch.save(both, tmp_path / "v.pth")
    with pytest.raises(WeightFileError, match=r"2 networks.*'student.', 'teacher.'"):
        readers.read("vgg16", tmp_path / "v.pth")


def test_another_head_blocks_only_if_it_is_loaded(tmp_path, state, caplog):
    caplog.set_level("INFO")
    state = {k: v for k, v in state.items() if not k.startswith("classifier")}
    torch.save(state | {"top.weight": torch.ones(2, 3)}, tmp_path / "v.pth")
    path = str(tmp_path / "v.pth")
    loading.load_pretrained(SPEC, path)
    assert "the head is new, so top.weight is not loaded" in caplog.text
    with pytest.raises(WeightFileError, match=r"classifier, of top.weight, .*--nohead"):
        loading.load_source("vgg16", path)
    loading.load_source("vgg16", path, head=False)
    with pytest.raises(MergeError, match="head/top.weight .* is not expected"):
        loading.load_pretrained(SPEC, path, "all")


@pytest.mark.parametrize("places,named", [([1], "classifier.1"), ([0, 3], "fc1, fc2")])
def test_head_without_the_last_layer_of_torchvision(tmp_path, state, places, named):
    state = {k: v for k, v in state.items() if not k.startswith("classifier")}
    for place in places:
        state[f"classifier.{place}.weight"] = torch.ones(3, 3)
        state[f"classifier.{place}.bias"] = torch.ones(3)
    torch.save(state, tmp_path / "v.pth")
    with pytest.raises(WeightFileError, match=f"classifier, of {named}.*--nohead"):
        loading.load_source("vgg16", str(tmp_path / "v.pth"))


def test_heads_of_torchvision_without_values_and_of_caffe(tmp_path, state):
    empty = {
        k: torch.full_like(v, torch.nan) if k.startswith("cl") else v
        for k, v in state.items()
    }
    torch.save(empty, tmp_path / "features.pth")
    _, variables, _ = loading.load_source("vgg16", str(tmp_path / "features.pth"))
    assert "head" not in variables["params"]
    names = {"classifier.0": "classifier.1", "classifier.3": "classifier.4"}
    caffe = {names.get(k[:12], k[:12]) + k[12:]: v for k, v in state.items()}
    torch.save(caffe, tmp_path / "caffe.pth")
    spec, variables, _ = loading.load_classifier("vgg16", str(tmp_path / "caffe.pth"))
    kernel = state["classifier.6.weight"].numpy().T
    np.testing.assert_array_equal(
        variables["params"]["head"]["logits"]["kernel"], kernel
    )


@pytest.mark.parametrize("name", ["v.h5", "v.keras", "v.weights.h5"])
def test_base_inside_of_a_sequential_network(tmp_path, name):
    import keras

    base = networks.keras_vgg(top=False)
    layers = [keras.layers.Flatten(), keras.layers.Dense(4), keras.layers.Dense(3)]
    network = keras.Sequential([keras.Input((224, 224, 3)), base, *layers])
    path = tmp_path / name
    (network.save_weights if "weights" in name else network.save)(path)
    _, variables, _ = loading.load_pretrained(SPEC, str(path))
    kernel = variables["params"]["backbone"]["block5_conv3"]["kernel"]
    expected = base.get_layer("block5_conv3").get_weights()[0]
    np.testing.assert_array_equal(kernel, expected)


@pytest.mark.parametrize(
    "value,message",
    [
        (torch.full((3,), 1e300, dtype=torch.float64), "values that are too large"),
        (torch.ones(3, dtype=torch.complex64), "complex values, expected real"),
        (torch.full((3,), torch.inf), "values that are not finite"),
    ],
    ids=["1e300", "complex", "inf"],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_values_that_float32_cannot_hold(tmp_path, state, suffix, value, message):
    path = tmp_path / f"v{suffix}"
    value = value.repeat(len(state["features.0.bias"]))[: len(state["features.0.bias"])]
    state = state | {"features.0.bias": value}
    if suffix == ".pth":
        torch.save(state, path)
    else:
        safetensors.numpy.save_file({k: v.numpy() for k, v in state.items()}, path)
    with pytest.raises(
        MergeError, match=f"{path}: .*\n.*block1_conv1/bias has {message}"
    ):
        loading.load_pretrained(SPEC, str(path))


def test_types_that_numpy_does_not_have(tmp_path, state):
    import safetensors.torch

    halved = {name: tensor.bfloat16() for name, tensor in state.items()}
    path = tmp_path / "v.safetensors"
    safetensors.torch.save_file(halved, path)
    backbone = loading.load_pretrained(SPEC, str(path))[1]["params"]["backbone"]
    expected = halved["features.0.bias"].float().numpy()
    np.testing.assert_array_equal(backbone["block1_conv1"]["bias"], expected)
    name, tensor = "features.0.bias", state["features.0.bias"]
    safetensors.torch.save_file({name: tensor.to(torch.float8_e4m3fn)}, path)
    with pytest.raises(
        WeightFileError, match="v.safetensors.*\n.*bias has type F8_E4M3"
    ):
        readers.read("vgg16", path)
    torch.save({name: torch.eye(3).to_sparse()}, tmp_path / "v.pth")
    with pytest.raises(WeightFileError, match="v.pth.*\n.*features.0.bias is sparse"):
        readers.read("vgg16", tmp_path / "v.pth")


def _layer(path):
    """Write a Keras file of one layer; return it open, with its group."""
    fixtures.write_keras_h5(path, [("block1_conv1", [("kernel:0", np.ones(3))])])
    file = h5py.File(path, "a")
    del file["block1_conv1/kernel:0"]
    return file, file["block1_conv1"]


def test_files_that_refer_to_other_files(tmp_path):
    (tmp_path / "secret").write_bytes(b"x" * 12)
    fixtures.write_keras_h5(tmp_path / "other.h5", [("a", [("b", np.ones(3))])])
    secret = [(str(tmp_path / "secret"), 0, 12)]
    layout = h5py.VirtualLayout((3,), "f4")
    layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "a/b", (3,))
    writes = {
        "storage": lambda g: g.create_dataset("kernel:0", (3,), "f4", external=secret),
        "virtual": lambda g: g.create_virtual_dataset("kernel:0", layout),
        "link": lambda g: g.__setitem__(
            "kernel:0", h5py.ExternalLink(str(tmp_path / "other.h5"), "/a/b")
        ),
        "soft": lambda g: g.__setitem__("kernel:0", h5py.SoftLink("/layer_names")),
    }
    for name, write in writes.items():
        path = tmp_path / f"{name}.h5"
        file, group = _layer(path)
        write(group)
        file.close()
        with pytest.raises(
            WeightFileError, match=f"{name}.h5 is refused: .*(file|link)"
        ):
            keras_h5.read(path)


def _write_bombs(folder):
    """Write small files that declare far more content than they have."""
    for name, options in {
        "compressed": {"compression": "gzip", "chunks": (1 << 24,)},
        "unwritten": {},
    }.items():
        file, group = _layer(folder / f"{name}.h5")
        shape = (1 << 26,) if name == "compressed" else (1 << 36,)
        data = group.create_dataset("kernel:0", shape, "f4", **options)
        if options:
            data[: 1 << 24] = 0
        file.close()
    with zipfile.ZipFile(folder / "v.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.weights.h5", bytes(1 << 27))
    with zipfile.ZipFile(folder / "z.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("z/data.pkl", bytes(1 << 27))
    torch.save({"features.0.bias": torch.ones(1).expand(1 << 40)}, folder / "v.pth")


def test_declared_sizes_are_checked_before_reading(tmp_path):
    _write_bombs(tmp_path)
    paths = sorted(tmp_path.iterdir())
    assert len(paths) == 5
    tracemalloc.start()
    for path in paths:
        with pytest.raises(
            WeightFileError, match=f"{path.name} .*refused before it is"
        ):
            readers.read("vgg16", path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 25
    tracemalloc.stop()


def test_small_files_may_shrink(tmp_path):
    path = tmp_path / "v"
    path.write_bytes(b"1")
    content.check_size(path, 1 << 26)
    with pytest.raises(WeightFileError, match="v .1 bytes. declares 67,108,865 bytes"):
        content.check_size(path, (1 << 26) + 1)


@pytest.mark.parametrize("foreign", ["v2", "[1]", '{"name": "vgg16"}'])
def test_foreign_spec_in_the_metadata_is_ignored(tmp_path, state, caplog, foreign):
    caplog.set_level("INFO")
    path = tmp_path / "v.safetensors"
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    safetensors.numpy.save_file(arrays, path, {"spec": foreign})
    spec, _, _ = loading.load_pretrained(SPEC, str(path))
    assert spec.preprocess == "torch" and "ignored 'spec'" in caplog.text
    assert "does not state its preprocessing" in caplog.text
    own = models.get_spec("vgg16").to_dict()
    for change in ({"width": -1}, {"depth": 3}, {"preprocess": "vgg"}):
        metadata = {"spec": json.dumps(own | change)}
        safetensors.numpy.save_file(arrays, path, metadata)
        with pytest.raises(WeightFileError, match="v.safetensors describes vgg16 with"):
            loading.load_pretrained(SPEC, str(path))


def test_damaged_folder_of_converted_weights(tmp_path):
    folder = tmp_path / "converted"
    spec = models.get_spec("small", num_classes=3)
    variables = fixtures.random_variables(spec, 0)
    writers.write(folder, "orbax", spec, variables, {"name": "x"})
    description = (folder / "model.json").read_text()
    for text in (description[:90], "[]", "{}", '{"spec": 3}'):
        (folder / "model.json").write_text(text)
        with pytest.raises(WeightFileError, match="converted/model.json is damaged or"):
            loading.load_source("small", str(folder))
    (folder / "model.json").write_text(description)
    for path in (folder / "variables").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(WeightFileError, match="variables cannot be read: .*is damaged"):
        loading.load_source("small", str(folder))
