"""Test the numbers in README.md and docs/ against results/."""

import json
import re

import pytest

from seeflower_jax import models
from seeflower_jax.attribution import batch
from tests import harness
from tests.docs import pages

TABLES = [table for text in pages.PAGES.values() for table in pages.tables(text)]


def _record(name):
    return json.loads((harness.ROOT / name).read_text())


def _rows(*header):
    """Return the rows of the only table with a header."""
    (rows,) = (rows for names, rows in TABLES if names == list(header))
    return rows


def _short(value, digits):
    """Format a number as in tables, without the zero before the point."""
    return f"{value:.{digits}f}".removeprefix("0")


def test_accuracies():
    paths = []
    for header, rows in TABLES:
        if header[-1] != "record":
            continue
        for _, validation, test, third, *_, path in rows:
            paths.append(path)
            record = _record(path)
            assert validation == _short(record["validation"]["top1"], 4)
            assert test == _short(record["test"]["top1"], 4)
            if header[3] == "test, mean class":
                assert third == _short(record["test"]["mean_class_top1"], 4)
    assert len(paths) == 13


CHANGES = [
    row for header, rows in TABLES if header[-1] == "record after" for row in rows
]


def _top1(reference, model):
    """Return validation top-1 of `file.json`, or of a row of `ablation.json`."""
    name, _, row = reference.replace("`", "").partition(", ")
    record = _record(f"results/{name}")
    return record[model][row]["top1"] if row else record["validation"]["top1"]


@pytest.mark.parametrize("cells", CHANGES, ids=[cells[0][:60] for cells in CHANGES])
def test_changes_of_accuracy(cells):
    change, before, after, *references = cells
    model = change.replace(":", ",").split(",")[0].lower().replace("-", "_")
    values = [_short(_top1(reference, model), 4) for reference in references]
    assert [before, after] == values


def test_changes_without_effect_are_about_one_standard_error():
    text = pages.PAGES["docs/results.md"].split("## What did not improve accuracy")[1]
    ((_, rows), *_) = pages.tables(text)
    assert len(rows) > 5 and all(row in CHANGES for row in rows)
    for _, before, after, *_ in rows:
        error = (float(before) * (1 - float(before)) / 1020) ** 0.5
        assert abs(float(after) - float(before)) < 1.2 * error


def test_directions():
    recorded = _record("results/directions.json")["rows"]
    tables = pages.tables(pages.PAGES["docs/results.md"])
    (rows,) = (rows for head, rows in tables if head[0] == "crops")
    values = {name: row["validation"]["top1"] for name, row in recorded.items()}
    for crops, *shown in rows:
        for text, variant in zip(shown, (crops, f"mean of {crops}"), strict=True):
            if text:
                assert text == _short(values[variant], 4)
    assert sum(map(bool, sum((row[1:] for row in rows), []))) == len(values)
    best, whole = max(values, key=values.__getitem__), values["whole image"]
    assert 0 < values[best] - whole < 0.5 * (whole * (1 - whole) / 1020) ** 0.5
    # Validation selected the only variant that the test split was used for.
    assert [name for name, row in recorded.items() if "test" in row] == [best]
    keys = ("top1", "mean_class_top1")
    top1, mean_class = (_short(recorded[best]["test"][key], 4) for key in keys)
    sentence = f"top-1 is 0{top1}, and mean class accuracy 0{mean_class}"
    assert sentence in " ".join(pages.PAGES["docs/results.md"].split())


def test_quick_starts():
    record = _record("results/quickstart.json")
    rows = _rows(
        *("flowers drawn with", "validation top-1 of the head"),
        *("validation top-1 after fine-tuning", "test top-1, with transfer"),
        *("test top-1, from scratch", "Grad-CAMs with their maximum on the flower"),
        "time",
    )
    assert len(rows) == len(record)
    for drawn_with, *cells, game, time in rows:
        entry = record[f"data_seed_{drawn_with.strip('`').rpartition('=')[2]}"]
        summary = entry["quickstart"]
        tests = [summary[run]["top1"] for run in ("transfer", "from_scratch")]
        values = *entry["validation"].values(), *tests
        assert cells == [_short(value, 4) for value in values]
        assert game == _short(summary["pointing_game"]["grad_cam"], 3)
        assert time == f"{entry['wall_seconds']} s" and entry["wall_seconds"] <= 120
        assert summary["gain"] >= 0.08


def test_fine_tuning_in_bfloat16():
    rows = _record("results/ablation.json")["inception_v3"]
    name = "two epochs of fine-tuning"
    words = " ".join(pages.PAGES["docs/devices.md"].split())
    for row in (rows[name], rows[f"{name}, bfloat16"]):
        assert f" {_short(row['top1'], 4)} in " in words
        error = (row["top1"] * (1 - row["top1"]) / row["count"]) ** 0.5
        assert round(error, 3) == 0.012


def test_outside_data():
    record = _record("results/outside_data.json")["outside_species"]
    rows = _rows("outside species", "mean", "range")
    assert [count for count, *_ in rows] == list(record)
    for count, mean, spread in rows:
        top1 = record[count]["top1"]
        assert mean == _short(sum(top1) / len(top1), 4)
        assert spread == f"{_short(min(top1), 4)} to {_short(max(top1), 4)}"


def test_pointing_games():
    record = _record("results/pointing_game.json")
    rows = _rows("", "VGG16", "Inception-v3")
    stretch = ", align=stretch"
    methods = {name for name in record["vgg16"] if stretch not in name}
    assert {name for name, *_ in rows} == methods
    ends = "receptive fields", "stretched"
    names = [f"{model}: {end}" for model in ("VGG16", "Inception-v3") for end in ends]
    aligned = _rows("", *names)
    assert {name + stretch for name, *_ in aligned} | methods == record["vgg16"].keys()
    for name, *cells in aligned:
        scores = [
            record[model][name + end]
            for model in ("vgg16", "inception_v3")
            for end in ("", stretch)
        ]
        assert cells == [_short(score["score"], 3) for score in scores]
    for model, grids, size in (("vgg16", 60, 256), ("inception_v3", 100, 384)):
        for entry in record[model].values():
            assert (entry["grids"], entry["grid_size"]) == (grids, size)
    layers = _rows("layer", "receptive fields", "stretched")
    assert len(layers) == 6
    for layer, *cells in layers:
        row = "grad_cam" + (f", layer={layer}" if layer != "head" else "")
        scores = [record["inception_v3"][row + end] for end in ("", ", align=stretch")]
        assert cells == [_short(score["score"], 3) for score in scores]
    for name, *cells in rows:
        scores = [record[model][name]["score"] for model in ("vgg16", "inception_v3")]
        assert [float(cell) for cell in cells] == pytest.approx(scores, abs=6e-4)


def test_pointing_games_of_single_layers():
    record = _record("results/pointing_game_layers.json")
    headers = {"inception_v3": "layer", "vgg16": "layer of VGG16"}
    for model, (grids, size) in {
        "inception_v3": (100, 384),
        "vgg16": (60, 256),
    }.items():
        entries = list(record[model].values())
        rows = _rows(headers[model], "Grad-CAM")
        assert rows == [[e["layer"], _short(e["score"], 3)] for e in entries]
        for entry in entries:
            assert (entry["grids"], entry["grid_size"]) == (grids, size)
        best = max(entries, key=lambda entry: entry["score"])
        assert best["layer"] == models.get_spec(model).cam_layer


def test_pointing_games_of_smaller_images():
    rows = _record("results/pointing_game_sizes.json")["inception_v3"].values()
    layers = _record("results/pointing_game_layers.json")["inception_v3"]
    words = " ".join(pages.PAGES["docs/attribution_batch.md"].split())
    spec = models.get_spec("inception_v3", num_classes=5)
    for row in rows:
        assert row["run"] == layers["grad_cam, layer=mixed10"]["run"]
        size, score = row["grid_size"], _short(row["score"], 3)
        _, height, width, _ = batch.endpoint_shapes(spec, size)["mixed10"].shape
        pattern = rf"grids of {size} pixels, (\d) by (\d), (?:it has )?0(\.\d+)"
        found = re.search(pattern, words)
        assert found and found.groups() == (str(height), str(width), score)


def test_maps_of_many_images():
    record = _record("results/many_images.json")
    (row,) = record["runs"].values()
    words = " ".join(pages.PAGES["docs/attribution_batch.md"].split())
    assert f"{record['images']:,} flowers with overlays had" in words
    assert f" {row['images_per_second']:.1f} images/s, which is " in words
    assert f"which is {row['ratio']:.2f} of the rate" in words
    assert f"peak memory was {row['peak_mib'] / 1024:.1f} GiB " in words
    assert f"({row['peak_mib_few'] / 1024:.1f} GiB for 512 flowers)" in words


def test_localisation():
    record = _record("results/localisation.json")
    inception, vgg16 = record["inception_v3"], record["vgg16"]
    words = " ".join(pages.PAGES["docs/attribution_batch.md"].split())
    columns = ("pointing_hit", "energy_in_mask", "mask_iou")
    methods = {name for name in inception if "align" not in name}
    tables = [rows for head, rows in TABLES if head[2:4] == ["energy", "IoU"]]
    sides = (inception, vgg16, ""), (inception, inception, ", align=stretch")
    for rows, (left, right, ending) in zip(tables, sides, strict=True):
        assert {name for name, *_ in rows} == {
            m for m in methods if m + ending in right
        }
        for name, *cells in rows:
            entries = left[name], right[name + ending]
            values = [entry[column] for entry in entries for column in columns]
            assert cells == [_short(value, 3) for value in values]
    for entry in (*inception.values(), *vgg16.values()):
        assert f"a hit and an energy of {entry['chance']:.2f}" in words
    for method in ("grad_cam", "xgrad_cam", "hires_cam", "finer_cam"):
        placed, stretched = (inception[method + end] for end in ("", ", align=stretch"))
        assert all(placed[key] > stretched[key] for key in columns[1:])
    stretched = {name: entry for name, entry in vgg16.items() if "align" in name}
    for name, entry in stretched.items():
        placed = vgg16[name.removesuffix(", align=stretch")]
        assert [entry[key] for key in columns] == [placed[key] for key in columns]


def test_faithfulness():
    record = _record("results/faithfulness.json")["inception_v3"]
    (rows,) = (rows for header, rows in TABLES if header[1:2] == ["deletion ↓"])
    columns = ("deletion", "insertion", "road_morf", "road_lerf", "road_combined")
    columns += ("sparseness", "randomisation")
    assert {name for name, *_ in rows} == record.keys()
    for name, *cells in rows:
        assert cells == [f"{record[name][column]:.3f}" for column in columns]


def test_parity():
    worst = {}
    for entry in _record("results/parity.json")["parity"]:
        framework = entry["source"].split()[0]
        is_imagenet = "ImageNet" in entry["source"] and entry["model"].startswith("inc")
        errors = dict(entry["errors"])
        logits = errors.pop("logits", 0)
        row = worst.setdefault((entry["model"], framework, is_imagenet), [0, 0])
        row[:] = max(row[0], *errors.values()), max(row[1], logits)
    network, models = "", {"Inception-v3": "inception_v3"}
    rows = _rows("network", "weights", "blocks", "logits")
    for cell, weights, *numbers in rows:
        network = cell or network
        model = models.get(network, network.lower())
        framework = weights.split()[0].strip(",")
        expected = worst.pop((model, framework, "ImageNet" in weights))
        formatted = [f"{n:.1e}".replace("e-0", "e-") if n else "0" for n in expected]
        assert [number or "0" for number in numbers] == formatted
    assert not worst


def test_parity_of_attribution():
    methods = _record("results/attribution_parity.json")["methods"]
    (rows,) = (rows for header, rows in TABLES if header[:2] == ["method", "cost"])
    compared = set()
    for names, *_, against, single, double in rows:
        keys = [key for key in re.findall(r"\w+", names) if key in methods]
        compared.update(keys)
        assert against == {methods[key]["against"].split()[0] for key in keys}.pop()
        columns = ("relative_difference", "relative_difference_float64")
        for cell, column in zip((single, double), columns, strict=True):
            differences = [methods[key].get(column) for key in keys]
            if None in differences:  # methods of transformers
                assert "attention" in names and column.endswith("64")
                assert cell == ""
            else:
                assert cell == f"{max(differences):.0e}".replace("e-0", "e-")
    # Forms of LRP that are no methods of their own are only in the record.
    assert {key for key in methods.keys() - compared if "lrp_" not in key} == set()
    assert len(methods) >= 26
    assert min(figures["correlation"] for figures in methods.values()) > 0.99999


def test_speed_of_training():
    plain, amx = (
        _record(f"results/benchmark_train{name}.json")["images_per_second"]
        for name in ("", "_amx")
    )
    keys = {
        "seeflower_jax, float32": "seeflower_jax",
        "seeflower_jax, bfloat16": "seeflower_jax_bfloat16",
        "Keras on JAX, float32": "keras",
        "PyTorch, float32": "torch",
        "PyTorch, bfloat16": "torch_bfloat16",
    }
    columns = ("forward", "fine-tuning", "as in training")
    rows = _rows("images/s", *columns, *(f"{name}, AMX" for name in columns))
    assert {keys[name] for name, *_ in rows} == plain.keys() == amx.keys()
    for name, *cells in rows:
        for rates in (plain[keys[name]], amx[keys[name]]):
            passes = ("forward", "finetune", "train")
            expected = [f"{rates[key]:.1f}" if key in rates else "" for key in passes]
            assert cells[:3] == expected
            del cells[:3]
    text = " ".join(pages.PAGES["docs/reproducing.md"].split())
    ours, torch = plain["seeflower_jax"], plain["torch"]
    forward, step = (ours[key] / torch[key] for key in ("forward", "finetune"))
    assert f"the forward pass is {forward:.2f} times as fast as PyTorch's" in text
    assert f"and the fine-tuning step {step:.2f} times" in text
    assert ours["train"] > 0.99 * ours["augmented"]  # the loader


def test_speed_of_convolutions():
    columns = {
        "XLA, float32": "xla_float32",
        "XLA, bfloat16": "xla_bfloat16",
        "seeflower_jax, float32": "seeflower_jax_float32",
        "seeflower_jax, bfloat16": "seeflower_jax_bfloat16",
    }
    rows = _rows("seconds", *columns)
    for name in ("convolutions", "convolutions_amx"):
        record = _record(f"results/{name}.json")
        products = record["product_gflops"]
        bound = {
            key: record["gflop"] / products[key.rpartition("_")[2]]
            for key in columns.values()
        }
        for seconds in (*record["seconds"].values(), bound):
            _, *cells = rows.pop(0)
            assert cells == [_short(seconds[key], 2) for key in columns.values()]
    assert not rows


def test_several_devices():
    record = _record("results/devices.json")
    for run in (*record["devices"].values(), *record["processes"].values()):
        assert run["difference"] < 1e-5 and run["norm_difference"] < 5e-5
    text = " ".join(pages.PAGES["docs/devices.md"].split())
    speed = record["loader"]
    one, two = (speed["threads"][threads] for threads in "12")
    assert f"{one:,.0f} images/s with one thread, {two:,.0f} with two" in text
    assert f"and {speed['images_per_second_per_core']:,.0f} per core" in text
    start = record["start_seconds"]
    assert start["second"] < start["first"] / 3
    assert f"ends {start['first']} s after" in text
    assert f"after {start['second']} s if" in text


def test_speed_of_attribution():
    networks = _record("results/attribution_benchmark.json")["networks"].values()
    (rows,) = (rows for header, rows in TABLES if header[0] == "maps/s")
    passes, *methods = rows
    expected = [
        network[key]
        for network in networks
        for key in ("forward_images_per_second", "captum_forward_images_per_second")
    ]
    assert [float(cell) for cell in passes[1:]] == pytest.approx(expected, abs=0.051)
    keys = {
        "smoothgrad": "smooth_grad",
        "gradientshap": "gradient_shap",
        "deeplift": "deep_lift",
        "kernelshap": "kernel_shap",
    }
    shown = set()
    for name, *cells in methods:
        method = name.lower().replace("-", "_").partition(",")[0].replace(" ", "_")
        method = keys.get(method, method)
        shown.add(method)
        expected = [
            value
            for network in networks
            for key in ("maps_per_second", "captum_maps_per_second")
            if (value := network["methods"].get(method, {}).get(key)) is not None
        ]
        digits = 1 if expected[0] > 1 else 2
        assert [cell for cell in cells if cell] == [_short(v, digits) for v in expected]
    assert all(shown >= network["methods"].keys() for network in networks)


def test_sentences_about_the_speed_of_attribution():
    networks = _record("results/attribution_benchmark.json")["networks"].values()
    vgg16, inception = (
        {
            name: figures["maps_per_second"] / figures["captum_maps_per_second"]
            for name, figures in network["methods"].items()
        }
        for network in networks
    )
    words = " ".join(pages.PAGES["docs/reproducing.md"].split())
    least, most = min(vgg16.values()), max(vgg16.values())
    assert (
        f"For VGG16, all methods are {least:.1f} to {most:.1f} times as fast" in words
    )
    least, most = min(inception.values()), max(inception.values())
    assert least >= 1
    assert (
        f"For Inception-v3, all methods are {least:.2f} to {most:.2f} times as fast"
        in words
    )
    for prefix, framework in ("", "seeflower_jax"), ("captum_", "captum"):
        memory = [
            figures[f"{prefix}peak_memory_mib"] / 1024
            for network in networks
            for figures in network["methods"].values()
        ]
        assert f"{min(memory):.1f} to {max(memory):.1f} GiB in {framework}" in words


def test_completeness_of_the_linear_heads():
    record = _record("results/completeness.json")
    rows = [record[model]["grad_cam"] for model in ("inception_v3", "vgg16")]
    words = " ".join(pages.PAGES["docs/attribution.md"].split())
    shares = [f"{row['completeness']:.2f}".removeprefix("0") for row in rows]
    assert f"to {shares[0]} of the score of Inception-v3" in words
    assert f"to {shares[1]} of VGG16's" in words
    (count,) = {row["pictures"] for row in rows}
    assert f"the means of {count} validation images" in words


def test_minutes_of_the_heads_of_the_vggs():
    def minutes(name):
        seconds = _record(f"results/{name}.json")["seconds"]["linear"]
        return f"{seconds / 60:.0f}"

    words = " ".join(pages.PAGES["docs/results.md"].split())
    linear = [minutes(f"{model}_official_linear_seed0") for model in ("vgg16", "vgg19")]
    assert "VGG16 took {} minutes, and VGG19 {} minutes".format(*linear) in words
    names = "vgg16_official_seed0", "vgg16_official_seed1", "vgg19_official_seed0"
    sentence = "took {} and {} minutes for VGG16, and {} minutes for VGG19"
    assert sentence.format(*map(minutes, names)) in words


def test_activation_maximisation():
    record = _record("results/activation_max.json")
    text = " ".join(pages.PAGES["docs/activation_max.md"].split())
    counts = {
        model: (forms["robust"]["recognised"], forms["plain"]["recognised"])
        for model, forms in record.items()
    }
    robust, plain = counts["inception_v3"]
    assert f"classifies {robust} of them correctly, and {plain} of the images" in text
    robust, plain = counts["vgg16"]
    assert f"classifies {robust} of its images correctly, and {plain} of the" in text
