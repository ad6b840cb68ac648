"""Attribution maps of many images, on files of every kind."""

import dataclasses
import gc
import json
import re
import shutil
import tracemalloc

import jax
import numpy as np
import pytest
from PIL import Image

from seeflower_jax.attribution import batch, registry
from seeflower_jax.data import decode
from seeflower_jax.data.images import Images
from seeflower_jax.experiment.evaluate import evaluate, single_view
from seeflower_jax.experiment.images import of_run
from seeflower_jax.explain import attribute, closer, store
from seeflower_jax.explain.inputs import target_labels
from seeflower_jax.figures import maps as figures
from seeflower_jax.inference import export
from seeflower_jax.inference.explainer import Explainer
from seeflower_jax.inference.network import Network
from tests import harness
from tests.explain import small

pytestmark = pytest.mark.long


@pytest.fixture
def network(tiny_run) -> Network:
    """Return the network of a run that no test changes."""
    return tiny_run.network


def _noise(size, mode="RGB", seed=0):
    bands = [
        Image.fromarray(values)
        for values in np.random.default_rng(seed).integers(
            0, 255, (len(Image.new(mode, (1, 1)).getbands()), *size[::-1]), np.uint8
        )
    ]
    return Image.merge(mode, bands)


@pytest.fixture
def folder(tmp_path):
    """Return a folder with images of every mode and one broken file."""
    path = tmp_path / "photos"
    path.mkdir()
    _noise((90, 120)).save(path / "colour.jpg")
    _noise((90, 120), "L").save(path / "grey.png")
    _noise((90, 120), "RGBA").save(path / "transparent.png")
    _noise((90, 120), "CMYK").save(path / "print.jpg")
    deep = np.random.default_rng(0).integers(0, 2**16, (90, 90), np.uint16)
    Image.fromarray(deep).save(path / "sixteen.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    _noise((120, 90)).save(path / "turned.jpg", exif=exif)
    _noise((1, 1)).save(path / "one_pixel.png")
    _noise((400, 40)).save(path / "panorama.webp")
    (path / "broken.jpg").write_bytes((path / "colour.jpg").read_bytes()[:700])
    (path / "notes.md").write_text("no image")
    return path


METHODS = ("signed_saliency", "grad_cam", "smooth_grad")


def test_images_of_every_kind(network, folder, tmp_path):
    images = network.images(folder)
    assert len(images) == 9
    out = tmp_path / "maps"
    skipped = attribute.attribute(
        network, images, METHODS, out, batch_size=4, overlays=True
    )
    assert [line["image"] for line in skipped] == [str(folder / "broken.jpg")]
    maps = store.MapStore.open(out)
    lines = list(maps.lines())
    assert len(lines) == 8 * len(METHODS)
    assert {line["method"] for line in lines} == set(METHODS)
    for line in lines:
        values = maps.read(line)
        assert values.shape == (80, 80) and values.dtype == np.float32
        assert np.isfinite(values).all()
        assert line["prediction"] == line["target"] in network.class_names
        assert 0 < line["probability"] <= 1
        assert ("box" in line) == (line["method"] == "grad_cam")
    settings = json.loads((out / "state.json").read_text())["settings"]
    assert settings["layer"] == "block5"
    for name in METHODS:
        assert Image.open(out / f"{name}.png").size[0] > 400
        assert len(list((out / "overlays" / name).iterdir())) == 8
    upright = decode.load_pixels((folder / "turned.jpg").read_bytes(), 80)
    assert upright.shape[0] > upright.shape[1]


def test_interrupted_call_resumes_with_the_same_maps(
    tiny_run, network, tmp_path, monkeypatch
):
    monkeypatch.setattr(store, "SHARD_SIZE", 8)
    images = of_run(tiny_run).images("test")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = {"batch_size": 4, "layer": "block3"}
    attribute.attribute(network, images, METHODS, whole, target="true", **options)
    reads = []

    def breaking(position):
        reads.append(position)
        if len(reads) > 13:
            raise KeyboardInterrupt
        return images.read(position)

    broken = dataclasses.replace(images, read=breaking)
    with pytest.raises(KeyboardInterrupt):
        attribute.attribute(network, broken, METHODS, parts, target="true", **options)
    (parts / "index.jsonl").open("a").write('{"image": "half a li')
    attribute.attribute(network, images, METHODS, parts, target="true", **options)
    assert (parts / "index.jsonl").read_text() == (whole / "index.jsonl").read_text()
    shards = sorted(p.relative_to(whole) for p in whole.rglob("*.npy"))
    assert len(shards) == 3 * len(METHODS)
    for shard in shards:
        np.testing.assert_array_equal(np.load(parts / shard), np.load(whole / shard))
    with pytest.raises(ValueError, match="target: true there, predicted now"):
        attribute.attribute(network, images, METHODS, parts, **options)
    head = jax.tree.map(lambda x: x + 1, network.variables["params"]["head"])
    params = network.variables["params"] | {"head": head}
    trained = dataclasses.replace(
        network, variables=network.variables | {"params": params}
    )
    with pytest.raises(ValueError, match="variables: [0-9a-f]{12} there"):
        attribute.attribute(trained, images, METHODS, parts, target="true", **options)


def test_maps_of_a_moved_network_and_of_changed_images(tmp_path):
    network, photos = small.baseline(), tmp_path / "photos"
    photos.mkdir()
    for name in "ab":
        _noise((40, 40)).save(photos / f"{name}.png")

    def explain(network, **options):
        images = network.images(photos)
        attribute.attribute(network, images, ["saliency"], tmp_path / "out", **options)

    explain(network)
    written = (tmp_path / "out" / "index.jsonl").read_bytes()
    explain(dataclasses.replace(network, origin="moved"))
    assert (tmp_path / "out" / "index.jsonl").read_bytes() == written
    with pytest.raises(ValueError, match="overlays: absent there, True now"):
        explain(network, overlays=True)
    _noise((50, 50)).save(photos / "b.png")
    with pytest.raises(ValueError, match="images: [0-9a-f]{12} there"):
        explain(network)


def test_split_has_the_labels_and_logits_of_the_evaluation(tiny_run, network):
    images = of_run(tiny_run).images("validation")
    evaluation = evaluate(tiny_run, "validation")
    np.testing.assert_array_equal(images.labels, evaluation.labels)
    explainer = Explainer(network, ["eigen_cam"], "block3", len(images))
    pixels = [images.read(i) for i in range(len(images))]
    explained = explainer(range(len(images)), pixels, evaluation.labels)
    np.testing.assert_allclose(
        explained.logits, evaluation.logits, rtol=1e-4, atol=1e-4
    )
    np.testing.assert_array_equal(explained.targets, evaluation.labels)
    with pytest.raises(ValueError, match="has no 'tset' split"):
        of_run(tiny_run).images("tset")


def test_targets(network, folder):
    images = network.images(folder)
    names = network.class_names

    def labels(target):
        return set(target_labels(target, images, names).tolist())

    assert labels("predicted") == {registry.PREDICTED}
    assert labels(names[7]) == labels("7") == {7}
    with pytest.raises(ValueError, match="unknown class '102'.*from 0 to 101"):
        labels("102")
    with pytest.raises(ValueError, match="did you mean 'sunflower'"):
        labels("sunflowr")
    with pytest.raises(ValueError, match="the true class of .*broken.jpg is not known"):
        labels("true")


def test_folder_of_a_class_is_the_true_class(network, folder):
    shutil.copytree(folder, folder / "bird of paradise")
    images = network.images(folder / "bird of paradise")
    assert set(target_labels("true", images, network.class_names)) == {7}


def test_closer_look(tiny_run, network):
    evaluator = single_view(tiny_run)

    def logits(**options):
        compute = closer.make_closer_look(network, **options)
        return evaluate(tiny_run, "validation", evaluator, compute).logits

    whole = logits(whole=1.0)
    expected = evaluate(tiny_run, "validation").logits
    np.testing.assert_allclose(whole, expected, rtol=1e-4, atol=1e-4)
    parts = logits(layer="block3", threshold=0.9, whole=0.0)
    assert np.abs(parts - whole).max() > 0


def test_image_with_nan_is_refused(network):
    explain = batch.make_explainer(network.spec, ["saliency"])
    images = np.full((3, 80, 80, 3), 100.0, np.float32)
    images[1, 4, 5, 2] = np.nan
    keys = jax.random.split(jax.random.key(0), 3)
    with pytest.raises(ValueError, match="image 1 .*not finite.*0 to 255"):
        explain(network.variables, images, np.zeros(3, np.int32), keys)


def test_export(tmp_path):
    export.save(tmp_path / "export", small.baseline(), {})
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        _noise((32, 32), seed=number).save(folder / f"{number}.png")
    (folder / "broken.jpg").write_bytes(b"no image")
    completed = harness.run_apart(
        "attribute",
        f"--export={tmp_path / 'export'}",
        f"--images={folder}",
        "--overlays",
        "--methods=saliency,eigen_cam",
        f"--out={tmp_path / 'out'}",
    )
    assert completed.returncode == 3, completed.stderr
    assert f"skipped: {folder / 'broken.jpg'} cannot be read" in completed.stderr
    rate = re.search(r"([\d.]+) maps/s", completed.stderr)
    assert rate is not None and float(rate[1]) > 0  # also after a single batch

    maps = store.MapStore.open(tmp_path / "out")
    lines = [line for line in maps.lines() if line["method"] == "eigen_cam"]
    exported = export.load(tmp_path / "export")
    predictions = exported.predict([line["image"] for line in lines], top=1)
    for line, prediction in zip(lines, predictions, strict=True):
        assert line["prediction"] == prediction.classes[0]
        probability = prediction.probabilities[0]
        assert line["probability"] == pytest.approx(probability, abs=1e-5)
        left, top, right, bottom = line["box"]
        assert 0 <= left < right <= 32 and 0 <= top < bottom <= 32
    assert len(list((tmp_path / "out/overlays/saliency").iterdir())) == 3

    out = tmp_path / "unboxed"
    images = exported.images(folder)  # in the same batch, so with the same rounding
    attribute.attribute(exported, images, ["eigen_cam"], out, boxes=False)
    for line, boxed in zip(store.MapStore.open(out).lines(), lines, strict=True):
        assert line == {k: v for k, v in boxed.items() if k != "box"}


@pytest.mark.parametrize(
    "arguments, status, message",
    [
        (["--out="], 2, "--out=: expected a path"),
        (["--images="], 2, "--images=: expected a path"),
        (["--batch_size=0"], 2, "--batch_size=0"),
        (["--limit=0"], 2, "--limit=0"),
        (["--methods=saliency,saliency"], 1, "'saliency' is given more than once"),
        (["--methods="], 1, "no attribution method given"),
        (["--options=smooth_grad.samples=0"], 1, "smooth_grad.samples is 0; expected"),
        (["--options=occlusion.baseline=nan"], 1, "occlusion.baseline is nan; expect"),
    ],
)
def test_values_out_of_range(tmp_path, arguments, status, message):
    if not (tmp_path / "export").exists():
        export.save(tmp_path / "export", small.baseline(), {})
        Image.new("RGB", (32, 32)).save(tmp_path / "0.png")
    completed = harness.run_here(
        "attribute",
        f"--export={tmp_path / 'export'}",
        f"--images={tmp_path / '*.png'}",
        f"--out={tmp_path / 'maps'}",
        *arguments,
    )
    assert completed.returncode == status and message in completed.stderr
    assert completed.stderr.count("\n") == 1
    assert not (tmp_path / "maps").exists()


def test_networks_that_have_no_splits(tmp_path):
    def errors(*arguments):
        return harness.run_here("attribute", *arguments, f"--out={tmp_path}").stderr

    message = errors("--export=x", "--split=test")
    assert "--split needs a run: give --workdir" in message
    message = errors("--export=x", "--workdir=y", "--images=z")
    assert "expected one of --workdir, --weights and --export" in message
    message = errors("--export=x", "--model=vgg16", "--images=z")
    assert "--model and --weights go together; give --weights too" in message
    message = errors("--workdir=x", "--images=y", "--data_dir=z")
    assert "--data_dir goes with --split only" in message


@pytest.mark.parametrize("keep_aspect", [True, False])
def test_box_encloses_what_the_map_points_at(tmp_path, keep_aspect):
    """Use equal parameters, with which Grad-CAM is the brightness of the image."""
    equal = jax.tree.map(
        lambda x: np.full_like(x, 0.01 if x.ndim > 1 else 0),
        small.baseline().variables,
    )
    network = small.baseline(equal, keep_aspect=keep_aspect)
    box = [330, 90, 420, 210]
    pixels = np.zeros((400, 600, 3), np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = 255
    Image.fromarray(pixels).save(tmp_path / "upright.png")
    exif = Image.Exif()
    exif[0x0112] = 8  # rotated by 90 degrees
    Image.fromarray(np.rot90(pixels, -1)).save(tmp_path / "turned.jpg", exif=exif)
    images = network.images(tmp_path)
    out = tmp_path / "out"
    attribute.attribute(network, images, ["grad_cam"], out, overlays=True)
    # The convolutions and the pooling add about four pixels of the view.
    reach = 5.5 * np.array([400 if keep_aspect else 600, 400] * 2) / 32
    for line in store.MapStore.open(out).lines():
        beyond = np.subtract(line["box"], box) * [-1, -1, 1, 1]
        assert (beyond >= 0).all() and (beyond <= reach).all(), (line["box"], beyond)
    shown = np.asarray(Image.open(out / "overlays/grad_cam/000001_upright.png"))
    assert (shown == (0, 255, 255)).all(-1).sum() > 20  # the box


@pytest.mark.parametrize("limit,expected", [(2, 2), (8, 3)])
def test_few_images_are_not_padded_to_a_batch(
    network, folder, tmp_path, monkeypatch, limit, expected
):
    sizes = []

    class Recorded(attribute.Explainer):
        def __init__(self, *args):
            super().__init__(*args)
            sizes.append(self.batch_size)

    monkeypatch.setattr(attribute, "Explainer", Recorded)
    attribute.attribute(
        network,
        network.images(folder),
        ["saliency"],
        tmp_path / "maps",
        batch_size=3,
        limit=limit,
    )
    assert sizes == [expected]


def test_long_titles_of_a_contact_sheet_are_whole(tmp_path):
    image, values, path = np.zeros((60, 60, 3)), np.zeros((60, 60)), tmp_path / "s.png"
    title = "alpine sea holly 81%; map of alpine sea holly"
    figures.write_contact_sheet(path, [image] * 4, [values] * 4, [title] * 4, False)
    edge = np.asarray(Image.open(path).convert("L"))[:3]
    assert (edge == 255).all()


def test_memory_does_not_grow_with_the_images(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "SHARD_SIZE", 32)
    # The sheets have a fixed number of images. Matplotlib leaves figures to the
    # garbage collector.
    monkeypatch.setattr(attribute, "_write_sheets", lambda *_: None)
    network = small.baseline()
    rng = np.random.default_rng(0)

    def peak(count):
        images = Images(
            [f"{i}.png" for i in range(count)],
            [None] * count,
            lambda position: rng.integers(0, 256, (32, 40, 3), np.uint8),
            lambda position: (40, 32),
        )
        out = tmp_path / str(count)
        gc.collect()
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        arrays = len(jax.live_arrays())
        attribute.attribute(network, images, ["saliency", "grad_cam"], out)
        assert len(jax.live_arrays()) - arrays < 100
        assert sum(1 for _ in store.MapStore.open(out).lines()) == 2 * count
        return tracemalloc.get_traced_memory()[1] - before

    tracemalloc.start()
    peak(32)  # imports and compiles
    few, many = peak(64), peak(512)
    tracemalloc.stop()
    # The maps of one shard take 256 KiB, and the maps of all images 2 MiB.
    assert many < few + 2**19, (few, many)
