"""Predictions and explanations of images, from Python and from the command line."""

import dataclasses
import json
import os

import jax
import numpy as np
import pytest
from PIL import Image

from seeflower_jax import models
from seeflower_jax.data.decode import UnreadableImage
from seeflower_jax.data.images import Images
from seeflower_jax.data.view import View
from seeflower_jax.explain import attribute, store
from seeflower_jax.inference import export, predict
from seeflower_jax.inference.explainer import Explainer
from seeflower_jax.inference.load import load
from seeflower_jax.inference.network import Network
from seeflower_jax.inference.run import load_run
from seeflower_jax.pretrained import imagenet, loading
from tests import fixtures, harness


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """Return the path of an image of noise."""
    path = tmp_path_factory.mktemp("images") / "noise.png"
    pixels = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def photos(tmp_path):
    """Return a folder with five images of different sizes."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(5):
        pixels = rng.integers(0, 256, (40 + number, 50 - 4 * number, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def _baseline(**options) -> Network:
    """Return a small network of random variables."""
    spec = models.get_spec("baseline", num_classes=4, hidden=(8,))
    return Network(
        spec=spec,
        variables=fixtures.random_variables(spec, 0),
        view=View(32, 36, **options),
        class_names=("ant", "bee", "cat", "dog"),
        temperature=0.5,
        origin="here",
    )


def test_imagenet_names():
    names = imagenet.class_names()
    assert len(names) == 1000
    assert (names[0], names[985], names[999]) == ("tench", "daisy", "toilet tissue")


def test_weight_file_with_its_classifier(image, tmp_path):
    from tests.pretrained import networks

    original = networks.keras_vgg()
    weights = tmp_path / "v.weights.h5"
    original.save_weights(weights)
    network = load(weights, model="vgg16")
    assert network.view == View(224, 256, 0.875)
    (prediction,) = network.predict(image, top=7)
    pixels = network.images(image).read(0)
    assert min(pixels.shape[:2]) == 256
    seen = network.view(pixels[None], np.array([pixels.shape[:2]]))
    logits = networks.keras_logits(original, np.asarray(seen))[0]
    expected = np.exp(logits - logits.max())
    expected = expected / expected.sum()
    order = np.argsort(-expected)
    assert prediction.image == str(image)
    assert prediction.classes == tuple(f"class {i}" for i in order)
    np.testing.assert_allclose(prediction.probabilities, expected[order], rtol=1e-4)

    arguments = ["--model=vgg16", f"--weights={weights}", "--json", image]
    completed = harness.run_apart("predict", *arguments)
    assert completed.returncode == 0, completed.stderr
    printed = json.loads(completed.stdout)
    assert printed["image"] == str(image) and len(printed["classes"]) == 5
    assert printed["classes"][0]["name"] == prediction.classes[0]
    assert printed["classes"][0]["probability"] == pytest.approx(
        prediction.probabilities[0], rel=1e-4
    )

    out = tmp_path / "maps"
    attribute.attribute(network, network.images(image), ["grad_cam"], out, batch_size=1)
    (line,) = store.MapStore.open(out).lines()
    assert line["prediction"] == line["target"] == prediction.classes[0]
    assert line["probability"] == pytest.approx(prediction.probabilities[0], abs=1e-5)


def test_run_gives_calibrated_probabilities(tiny_run, image):
    network = load(tiny_run.workdir)
    assert network.temperature == tiny_run.network.temperature != 1.0
    pixels = network.images(image).read(0)  # as large as the view
    logits = models.apply(network.spec, network.variables, pixels[None])[0][0]
    expected = np.sort(jax.nn.softmax(logits / network.temperature))[::-1]
    (prediction,) = network.predict(image, top=3)
    np.testing.assert_allclose(prediction.probabilities, expected[:3], rtol=1e-4)


def test_batches_give_what_single_images_give(photos):
    network = _baseline()
    predictions = network.predict(photos, batch_size=2)
    paths = sorted(photos.iterdir())
    assert [p.image for p in predictions] == list(map(str, paths))
    for path, prediction in zip(paths, predictions, strict=True):
        (single,) = network.predict(path, batch_size=1)
        assert single.image == prediction.image
        assert single.classes == prediction.classes
        np.testing.assert_allclose(
            single.probabilities, prediction.probabilities, atol=1e-6
        )
        assert sum(prediction.probabilities) == pytest.approx(1, abs=1e-6)
    assert network.predict(network.images(photos)[:0]) == []
    chosen = network.predict([paths[3], paths[0]], top=1)
    assert [p.image for p in chosen] == [str(paths[3]), str(paths[0])]
    assert [len(p.classes) for p in chosen] == [1, 1]
    with pytest.raises(ValueError, match="batch_size is 0; expected 1 or more"):
        network.predict(photos, batch_size=0)


def test_next_batches_are_read_ahead(photos):
    network = _baseline()
    files, reads = network.images(photos), []

    def read(position: int) -> np.ndarray:
        reads.append(position)
        return files.read(position)

    images = Images(files.names, files.labels, read, files.original_size)
    predictions = predict.stream(network, images, batch_size=1)
    for count in range(1, 6):
        next(predictions)
        assert count <= len(reads) <= count + 2


def test_unreadable_images(photos):
    network = _baseline()
    (photos / "1.png").write_text("<html>")
    with pytest.raises(UnreadableImage, match="1.png cannot be read as an image"):
        network.predict(photos)
    with pytest.raises(UnreadableImage, match="1.png cannot be read as an image"):
        network.explain(photos / "1.png", "saliency")
    results = list(predict.stream(network, network.images(photos), batch_size=2))
    assert [isinstance(r, UnreadableImage) for r in results] == [False, True] + 3 * [
        False
    ]
    (photos / "list.txt").write_text("0.png\nabsent.png\n")
    with pytest.raises(UnreadableImage, match="absent.png cannot be read"):
        network.predict(photos / "list.txt")
    with pytest.raises(FileNotFoundError, match="absent.png does not exist"):
        network.predict(photos / "absent.png")


def test_script_skips_unreadable_images(photos, tmp_path):
    export.save(tmp_path / "export", _baseline(), {})
    (photos / "1.png").write_text("<html>")
    completed = harness.run_here(
        "predict", f"--export={tmp_path / 'export'}", "--json", "--batch_size=2", photos
    )
    assert completed.returncode == 3
    lines = [json.loads(line) for line in completed.stdout.splitlines()]
    assert [line["image"] for line in lines] == [
        str(photos / f"{number}.png") for number in (0, 2, 3, 4)
    ]
    assert f"skipped: {photos / '1.png'} cannot be read as an image" in completed.stderr
    plain = harness.run_here(
        "predict", f"--export={tmp_path / 'export'}", "--top=2", photos / "0.png"
    )
    assert plain.returncode == 0, plain.stderr
    name, *classes = plain.stdout.splitlines()
    assert name == str(photos / "0.png") and len(classes) == 2
    best = lines[0]["classes"][0]
    assert classes[0] == f"  {best['probability']:.4f}  {best['name']}"


def test_logits_that_are_not_finite_are_no_prediction(photos, tmp_path):
    intact = _baseline()
    variables = jax.tree.map(lambda array: array * 1e25, intact.variables)
    network = dataclasses.replace(intact, variables=variables)
    message = "here gives logits that are not finite for .*0.png; its weights or its"
    for use in (network.predict, lambda where: network.explain(where / "0.png")):
        with pytest.raises(ValueError, match=message):
            use(photos)
    export.save(tmp_path / "export", network, {})
    completed = harness.run_here(
        "predict", f"--export={tmp_path / 'export'}", "--json", photos
    )
    assert (completed.returncode, completed.stdout) == (1, "")
    assert "export gives logits that are not finite for" in completed.stderr


def test_script_writes_explanations_beside_the_images(photos, tmp_path):
    export.save(tmp_path / "export", _baseline(), {})
    network = f"--export={tmp_path / 'export'}"
    picture = (photos / "1.png").rename(photos / "0_grad_cam.png")
    content = picture.read_bytes()
    (tmp_path / "link").symlink_to(photos)
    arguments = ["--explain", f"--out={tmp_path / 'link'}", "--json"]
    completed = harness.run_here("predict", network, *arguments, photos)
    assert completed.returncode == 0, completed.stderr
    written = [json.loads(line)["grad_cam"] for line in completed.stdout.splitlines()]
    assert [os.path.basename(path) for path in written[:2]] == [
        *("0_1_grad_cam.png", "0_grad_cam_grad_cam.png")
    ]
    assert picture.read_bytes() == content
    completed = harness.run_here("predict", network, f"--out={tmp_path}", photos)
    assert completed.returncode == 2 and "give --explain too" in completed.stderr


def test_script_prints_names_that_are_not_utf8(photos, tmp_path):
    export.save(tmp_path / "export", _baseline(), {})
    (photos / "1.png").rename(photos / os.fsdecode(b"1\xe9.png"))
    arguments = [f"--export={tmp_path / 'export'}", "--top=1", photos]
    completed = harness.run_apart("predict", *arguments)
    assert completed.returncode == 0, completed.stderr
    names = ("0.png", r"1\udce9.png", "2.png", "3.png", "4.png")
    printed = completed.stdout.splitlines()[::2]
    assert printed == [str(photos / name) for name in names]


def test_explanation_is_that_of_the_explainer(photos):
    network, path = _baseline(), photos / "0.png"
    explainer = Explainer(network, ["grad_cam", "smooth_grad"], batch_size=1)
    explained = explainer([0], [network.images(path).read(0)], [2])
    for method in ("grad_cam", "smooth_grad"):
        explanation = network.explain(path, method, target="cat")
        np.testing.assert_allclose(
            explanation.map, explained.maps[method][0], rtol=1e-4, atol=1e-6
        )
        assert (explanation.method, explanation.target) == (method, "cat")
        assert explanation.map.shape == (32, 32) and not explanation.signed
        np.testing.assert_array_equal(
            explanation.image, explained.images[0].round().astype(np.uint8)
        )
    assert explanation.overlay().size == (32, 32)
    (prediction,) = network.predict(path)
    assert explanation.prediction.image == str(path)
    assert explanation.prediction.classes == prediction.classes
    np.testing.assert_allclose(
        explanation.prediction.probabilities, prediction.probabilities, atol=1e-6
    )
    assert network.explain(path).target == prediction.classes[0]
    coarse = network.explain(path, "integrated_gradients", target=2, steps=2)
    fine = network.explain(path, "integrated_gradients", target=2, steps=32)
    assert coarse.signed and np.abs(coarse.map - fine.map).max() > 0


def test_explanation_is_of_one_file(photos, monkeypatch):
    network = _baseline()
    (photos / "list.txt").write_text("0.png\n")
    (photos / "one").mkdir()
    for name, message in (("list.txt", "not an image"), ("one", "Is a directory")):
        (photos / "0.png").rename(photos / "one" / "0.png")
        with pytest.raises(UnreadableImage, match=f"{name} cannot be .*{message}"):
            network.explain(photos / name)
        (photos / "one" / "0.png").rename(photos / "0.png")
    for name in ("0.*", "absent.png"):
        with pytest.raises(FileNotFoundError, match=f"{name} does not exist"):
            network.explain(photos / name)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40)).save(photos / "~rose [1].jpg", exif=exif)
    monkeypatch.chdir(photos)
    explanation = network.explain("~rose [1].jpg")
    (prediction,) = network.predict("~rose [1].jpg")
    assert explanation.prediction.image == prediction.image
    np.testing.assert_allclose(
        explanation.prediction.probabilities, prediction.probabilities, atol=1e-6
    )
    seen = network.see(network.images("~rose [1].jpg").read(0))
    np.testing.assert_array_equal(explanation.image, seen)


def test_explanations_are_compiled_once(photos, monkeypatch):
    network, made = _baseline(), []
    original = Explainer.__init__

    def count(self, *arguments, **options):
        made.append(arguments)
        original(self, *arguments, **options)

    monkeypatch.setattr(Explainer, "__init__", count)
    for path in sorted(photos.iterdir())[:3]:
        network.explain(path, "saliency")
    assert len(made) == 1
    network.explain(path, "occlusion", window=16, stride=8)
    network.explain(path, "occlusion", window=8, stride=8)
    assert len(made) == 3


def test_wrong_explanations(photos):
    network, path = _baseline(), photos / "0.png"
    with pytest.raises(ValueError, match="unknown class 'bet'.*did you mean 'bee'"):
        network.explain(path, target="bet")
    with pytest.raises(ValueError, match="unknown class 4: .*index from 0 to 3"):
        network.explain(path, target=4)
    with pytest.raises(ValueError, match="unknown class 'true': expected 'predicted'"):
        network.explain(path, target="true")
    with pytest.raises(ValueError, match="unknown attribution method .*'grad_cam'"):
        network.explain(path, "gradcam")
    with pytest.raises(ValueError, match="occlusion has no option 'windw': it has wi"):
        network.explain(path, "occlusion", windw=3)
    with pytest.raises(ValueError, match="conv9"):
        network.explain(path, "grad_cam", layer="conv9")


def test_view_of_an_image(tmp_path):
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[:, 50:150] = 200
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    network = _baseline(crop=0.8)
    seen = network.see(network.images(tmp_path / "wide.png").read(0))
    assert seen.shape == (32, 32, 3) and seen.min() > 190


def test_prediction_and_its_map_are_of_the_same_squashed_image(tmp_path):
    export.save(tmp_path / "export", _baseline(keep_aspect=False), {})
    network = load(tmp_path / "export")
    wide = np.zeros((40, 70, 3), np.uint8)
    wide[:, :15] = 255  # It is lost where the centre is cropped.
    Image.fromarray(wide).save(tmp_path / "wide.png")
    explanation = network.explain(tmp_path / "wide.png")
    assert (explanation.image[:, :5] > 250).all()
    whole = network.see(network.images(tmp_path / "wide.png").read(0))
    np.testing.assert_array_equal(explanation.image, whole)


def test_network_whose_name_begins_with_imagenet(tmp_path, monkeypatch):
    export.save(tmp_path / "imagenet_finetuned", _baseline(), {})
    monkeypatch.chdir(tmp_path)
    assert load("imagenet_finetuned").class_names == ("ant", "bee", "cat", "dog")
    with pytest.raises(FileNotFoundError, match="did you mean imagenet_finetuned"):
        load("imagenet_finetund")
    for published in ("imagenet", "imagenet:top"):
        with pytest.raises(ValueError, match="needs the name of a network"):
            load(published)
    (tmp_path / "imagenet_finetuned").rename("imagenet")
    assert load("imagenet").class_names == ("ant", "bee", "cat", "dog")


def test_what_is_not_a_network(image, tmp_path):
    completed = harness.run_here("predict", "--workdir=runs/x")
    assert completed.returncode == 2 and "paths of images" in completed.stderr
    with pytest.raises(FileNotFoundError, match="not a run directory"):
        load_run(tmp_path)
    (tmp_path / "run").mkdir()
    with pytest.raises(FileNotFoundError, match=f"did you mean {tmp_path / 'run'}"):
        load_run(tmp_path / "rnu")
    with pytest.raises(FileNotFoundError, match=f"did you mean {tmp_path / 'run'}"):
        load(tmp_path / "rnu")
    with pytest.raises(ValueError, match="neither a run directory .* nor a complete"):
        load(tmp_path)
    with pytest.raises(ValueError, match="is a file; name the network"):
        load(image)
    export.save(tmp_path / "export", _baseline(), {})
    with pytest.raises(ValueError, match="export is an export, .* as --export, and"):
        loading.load_classifier("baseline", str(tmp_path / "export"))
    arguments = "--model=VGG16", "--weights=absent.h5", image
    completed = harness.run_here("predict", *arguments)
    assert completed.returncode == 1
    assert "unknown model 'VGG16'" in completed.stderr
    assert "did you mean 'vgg16'?" in completed.stderr
    arguments = "--model=vgg16", "--weights=absent.h5", image
    completed = harness.run_here("predict", *arguments)
    assert "tf_kernels.h5 (MD5" in completed.stderr
    assert "or set --weights to 'imagenet:top'" in completed.stderr
