"""Test training on folders: moved images, uneven classes, unreadable files."""

import json

import numpy as np
import pytest
from PIL import Image

from seeflower_jax.data import loader
from seeflower_jax.experiment import images
from seeflower_jax.experiment.evaluate import evaluate
from seeflower_jax.experiment.train import train
from seeflower_jax.inference.run import load_run
from tests import harness, tiny_config

pytestmark = pytest.mark.long

COUNTS = {"rose": 24, "tulip": 6}


def _write_photos(folder):
    rng = np.random.default_rng(0)
    for label, (name, count) in enumerate(COUNTS.items()):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 99, (40, 44, 3), np.uint8)
            pixels[..., label] += 150
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


def _config(folder, cache_dir):
    """Return a config that trains the network `small` in seconds."""
    config = tiny_config.get_config()
    config.model.update(name="small", width=0.5)
    config.init.weights = ""
    config.data.update(
        source="folder", dir=str(folder), cache_dir=str(cache_dir), shortest_side=32
    )
    config.data.split = "60/20/20"
    config.eval.update(size=32, batch_size=8)
    config.test_time.views = ((32, 1.0),)
    config.stage_order = ("finetune",)
    config.stages.finetune.partition = ((".*", 1.0),)
    config.stages.finetune.update(epochs=3, validate_every=1, batch_size=6)
    config.stages.finetune.augment.size = 32
    return config


def test_relative_folder_is_found_from_another_one(tmp_path, monkeypatch):
    _write_photos(tmp_path / "home" / "photos")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    config = _config("photos", tmp_path)
    config.stages.finetune.epochs = 1
    result = train(config, "run")
    workdir = tmp_path / "home" / "run"
    recorded = json.loads((workdir / "data.json").read_text())
    assert recorded["dir"] == str(tmp_path / "home" / "photos")
    assert json.loads((workdir / "config.json").read_text())["data"]["dir"] == "photos"
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert evaluate(load_run(workdir), "test").metrics == pytest.approx(result["test"])
    (tmp_path / "home" / "photos").rename(tmp_path / "moved")
    flags = f"--workdir={workdir}", "--split=validation"
    done = harness.run_here("evaluate", *flags)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    for part in ("photos does not exist", recorded["dir"], "--data_dir"):
        assert part in done.stderr
    done = harness.run_here("evaluate", *flags, f"--data_dir={tmp_path / 'moved'}")
    assert done.returncode == 0, done.stderr


class _Interrupted(BaseException):
    pass


def test_balanced_run_is_the_same_after_an_interruption(tmp_path, monkeypatch):
    _write_photos(tmp_path / "photos")
    config = _config(tmp_path / "photos", tmp_path)
    plain = train(config, tmp_path / "plain", test=False)
    config.data.balance = "sampling"
    whole = train(config, tmp_path / "whole", test=False)
    assert whole["config_hash"] != plain["config_hash"]
    original = loader.TrainLoader.__call__

    def five_batches(self, start, stop):
        yield from original(self, start, min(stop, 5))
        raise _Interrupted

    with monkeypatch.context() as patch, pytest.raises(_Interrupted):
        patch.setattr(loader.TrainLoader, "__call__", five_batches)
        train(config, tmp_path / "parts", checkpoint_seconds=0.0, test=False)
    parts = train(config, tmp_path / "parts", test=False)
    assert parts["validation"] == whole["validation"]
    one, other = (
        load_run(tmp_path / name).network.variables for name in ("whole", "parts")
    )
    harness.assert_trees_equal(one, other)
    labels = images.of_run(load_run(tmp_path / "whole")).labels("train")
    assert np.bincount(labels).tolist() == [14, 4]  # uneven before the sampling


def test_training_names_every_file_that_cannot_be_read(tmp_path):
    _write_photos(tmp_path / "photos")
    (tmp_path / "photos" / "rose" / "3.png").write_bytes(b"no image")
    (tmp_path / "photos" / "tulip" / "1.png").write_bytes(b"")
    with pytest.raises(ValueError, match="2 of 30 images of .*photos cannot") as caught:
        train(_config(tmp_path / "photos", tmp_path), tmp_path / "run")
    assert "rose/3.png cannot be read as an image: the file is not" in str(caught.value)
    assert "tulip/1.png cannot be read as an image: the file is empty" in str(
        caught.value
    )
    assert not (tmp_path / "run" / "config.json").exists()


def test_scripts_go_on_after_files_that_cannot_be_read(small_run, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x011A] = 72.0
    written = exif.tobytes().replace(
        (72).to_bytes(4) + (1).to_bytes(4), (-1).to_bytes(4, signed=True) + bytes(4)
    )
    image = Image.new("RGB", (70, 70), "red")
    image.save(folder / "exif.jpg", exif=written)
    image.save(folder / "plain.png")
    (folder / "cut.png").write_bytes((folder / "plain.png").read_bytes()[:60])
    (folder / "page.jpg").write_text("<html>")
    done = harness.run_here("predict", f"--workdir={small_run}", "--json", folder)
    assert done.returncode == 3, done.stderr
    predicted = [json.loads(line)["image"] for line in done.stdout.splitlines()]
    assert predicted == [str(folder / "exif.jpg"), str(folder / "plain.png")]
    for name in ("cut.png", "page.jpg"):
        assert f"skipped: {folder / name} cannot be read as an image: " in done.stderr
    arguments = f"--images={folder}", "--methods=saliency", f"--out={tmp_path / 'maps'}"
    done = harness.run_here("attribute", f"--workdir={small_run}", *arguments)
    assert done.returncode == 3, done.stderr
    lines = (tmp_path / "maps" / "index.jsonl").read_text().splitlines()
    assert [json.loads(line)["image"] for line in lines] == predicted
    skipped = (tmp_path / "maps" / "skipped.jsonl").read_text().splitlines()
    assert [json.loads(line)["image"] for line in skipped] == [
        str(folder / "cut.png"),
        str(folder / "page.jpg"),
    ]
