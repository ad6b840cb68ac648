"""Test runs on several devices: equal results, and use on other numbers of devices."""

import concurrent.futures
import json
import re
import signal
import time

import numpy as np
import pytest

from seeflower_jax import records
from seeflower_jax.experiment.train import train
from seeflower_jax.explain.store import MapStore
from seeflower_jax.inference.run import load_run
from tests import harness, tiny_config
from tests.test_processes import free_port, start_together

# {script that uses a run: its arguments besides --workdir}
USES = {
    "evaluate": ["--split=validation", "--views=32", "--json"],
    "attribute": ["--split=validation", "--methods=grad_cam,smooth_grad", "--limit=5"],
    "activation_max": ["--classes=0,1,2", "--form=plain", "--size=32", "--steps=2"],
}
# Adam divides a gradient by its size. Where a gradient is nearly zero (7e-9 in one
# pixel), rounding changes the first step by 2 %, and more steps enlarge that.


def forced(count):
    """Return the environment of a process with several devices."""
    return {"XLA_FLAGS": f"--xla_force_host_platform_device_count={count}"}


@pytest.mark.long
# Batches that the devices do not divide, and the batches of the recipes.
@pytest.mark.parametrize(
    "count,batch_size,accum_steps",
    [(4, 7, 1), (4, 6, 2), (8, 16, 1), (8, 32, 1), (8, 34, 1), (8, 68, 1)],
)
def test_steps_on_several_devices_are_those_of_one(count, batch_size, accum_steps):
    arguments = f"1,{count}", batch_size, accum_steps
    done = harness.run_python("-m", "tests.devices", *arguments, **forced(count))
    assert done.returncode == 0, done.stderr
    one, several = json.loads(done.stdout).values()
    for expected, actual in zip(one["metrics"], several["metrics"], strict=True):
        assert actual == pytest.approx(expected, rel=1e-5)
    harness.assert_trees_close(several["end"], one["end"], rtol=1e-5, atol=1e-5)
    # A device that has left such a loop can wait for one that has not: a deadlock.
    assert not several["waiting_loops"]


@pytest.fixture(scope="module")
def config(flowers, tmp_path_factory):
    """Return a config with batches that only 1 device divides."""
    config = tiny_config.make_small(tiny_config.get_config())
    config.data.update(
        dir=str(flowers), cache_dir=str(tmp_path_factory.mktemp("cache"))
    )
    config.eval.batch_size = 7
    config.stages.head.batch_size = 7
    config.stages.finetune.update(batch_size=7, epochs=2, train_batch_stats=True)
    return config


@pytest.fixture(scope="module")
def config_file(config, tmp_path_factory):
    """Return a file of the config, for scripts.train."""
    return _write_config(tmp_path_factory.mktemp("config"), config)


def _write_config(folder, config):
    path = folder / "config.py"
    path.write_text(
        "from ml_collections import ConfigDict\n\n\n"
        f"def get_config():\n    return ConfigDict({config.to_dict()!r})\n"
    )
    return path


def assert_same_run(folder, expected):
    """Assert that the metrics of two runs differ only by rounding."""
    lines, others = records.read_log(folder), records.read_log(expected)
    assert [line["run_step"] for line in lines] == [x["run_step"] for x in others]
    results = records.read_result(folder), records.read_result(expected)
    for split in ("validation", "test"):
        assert results[0][split] == pytest.approx(results[1][split], abs=1e-5)
    for line, other in zip(lines, others, strict=True):
        for key in ("train", "validation"):
            assert line[key] == pytest.approx(other[key], rel=1e-5, abs=1e-5)


@pytest.fixture(scope="module")
def one(config, tmp_path_factory):
    """Return the directory of a run on one device."""
    folder = tmp_path_factory.mktemp("one")
    train(config, folder)
    return folder


@pytest.fixture(scope="module")
def four(config_file, tmp_path_factory):
    """Return the directory of a run on four devices."""
    folder = tmp_path_factory.mktemp("four")
    arguments = [f"--config={config_file}", f"--workdir={folder}"]
    done = harness.run_apart("train", *arguments, **forced(4))
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_runs_on_one_and_on_four_devices_are_the_same(one, four):
    assert records.read_result(four)["device"].startswith("4 x cpu")
    assert_same_run(four, one)


def _use(workdir, out, count):
    """Run all scripts of `USES`, each with a folder in `out`."""
    for script, arguments in USES.items():
        folders = [f"--workdir={workdir}", f"--out={out / script}"]
        done = harness.run_apart(script, *folders, *arguments, **forced(count))
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def expected(one, tmp_path_factory):
    """Return the folder of the outputs of all scripts for a run, on one device."""
    folder = tmp_path_factory.mktemp("expected")
    _use(one, folder, 1)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("trained,count", [("four", 1), ("four", 2), ("one", 4)])
def test_run_of_other_devices_is_used(trained, count, one, four, expected, tmp_path):
    _use({"one": one, "four": four}[trained], tmp_path, count)
    folders = tmp_path, expected
    metrics, other = (
        records.read_json(folder / "evaluate" / "metrics.json", "")
        for folder in folders
    )
    assert metrics["loss"] == pytest.approx(other["loss"], abs=1e-5)
    maps, expected_maps = (MapStore.open(folder / "attribute") for folder in folders)
    for line, other in zip(maps.lines(), expected_maps.lines(), strict=True):
        assert line["image"] == other["image"]
        assert line["probability"] == pytest.approx(other["probability"], abs=1e-5)
        map, other = maps.read(line), expected_maps.read(other)
        np.testing.assert_allclose(map, other, atol=2e-3 * np.abs(other).max())
    scores = (
        records.read_json(folder / "activation_max" / "result.json", "")["scores"]
        for folder in folders
    )
    assert next(scores) == pytest.approx(next(scores), rel=1e-3)


@pytest.mark.long
def test_maps_of_sharded_images_are_those_of_one_device():
    methods = ("grad_cam", "integrated_gradients", "guided_saliency", "full_grad")
    arguments = "-m", "tests.attribution.sharded", *methods, "deep_lift"
    done = harness.run_python(*arguments, **forced(2))
    assert done.returncode == 0, done.stderr
    differences = json.loads(done.stdout)
    assert len(differences) == 5 and max(differences.values()) < 1e-5, differences


@pytest.mark.slow
def test_methods_are_scored_alike_on_several_devices(small_run, tmp_path):
    scores = []
    for count in (1, 4):
        out = tmp_path / str(count)
        arguments = [f"--workdir={small_run}", f"--out={out}", "--methods=saliency"]
        done = harness.run_apart(
            "attribute_eval",
            *arguments,
            "--limit=16",
            "--batch_size=3",
            "--metrics=faithfulness,infidelity,sensitivity",
            **forced(count),
        )
        assert done.returncode == 0, done.stderr
        result = records.read_json(out / "result.json", "")
        scores.append(result["methods"]["saliency"])
    assert scores[0] == pytest.approx(scores[1], abs=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("trained,count", [("four", 1), ("four", 2), ("one", 4)])
def test_run_of_other_devices_is_exported_and_predicts(
    trained, count, one, four, flowers, tmp_path
):
    image = sorted((flowers / "jpg").iterdir())[0]
    workdir = {"one": one, "four": four}[trained]
    arguments = [f"--workdir={workdir}", f"--out={tmp_path / 'export'}"]
    done = harness.run_apart("export", *arguments, **forced(count))
    assert done.returncode == 0, done.stderr
    probabilities = []
    for source in (f"--workdir={workdir}", f"--export={tmp_path / 'export'}"):
        done = harness.run_apart("predict", source, "--json", image, **forced(count))
        assert done.returncode == 0, done.stderr
        classes = json.loads(done.stdout)["classes"]
        probabilities.append([entry["probability"] for entry in classes])
    assert probabilities[0] == pytest.approx(probabilities[1], abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("before,after", [(4, 1), (4, 2), (1, 4), (2, 4)])
def test_run_is_resumed_on_other_devices(
    before, after, config, config_file, one, tmp_path
):
    arguments = [f"--config={config_file}", f"--workdir={tmp_path}"]
    first = harness.run_apart(
        "train", *arguments, "--config.stage_order=('head',)", **forced(before)
    )
    assert first.returncode == 0, first.stderr
    done = harness.run_apart("train", *arguments, **forced(after))
    assert done.returncode == 0, done.stderr
    assert_same_run(tmp_path, one)


def _start_two(config_file, folder, *more):
    """Start a run in two processes, or resume a run."""
    return start_together(
        *("-m", "scripts.train", f"--config={config_file}", f"--workdir={folder}"),
        *("--distributed", f"--coordinator=127.0.0.1:{free_port()}"),
        *("--num_processes=2", *more),
    )


def _end(started, seconds=600):
    """Wait for processes; return their exit statuses and their errors.

    After the time, all of them are killed.
    """
    with concurrent.futures.ThreadPoolExecutor() as pool:
        try:
            ends = pool.map(lambda p: p.communicate(timeout=seconds)[1], started)
            outputs = list(ends)
        finally:
            for process in started:
                process.kill()
    return [process.returncode for process in started], outputs


def _wait_for_epochs(folder, count, started):
    """Wait until a run has logged some epochs."""
    until = time.monotonic() + 300
    while len(records.read_log(folder)) < count:
        assert all(process.poll() is None for process in started), _end(started)
        assert time.monotonic() < until
        time.sleep(0.1)


def _kill(started):
    for process in started:
        process.kill()
    _end(started)


@pytest.mark.slow
def test_two_processes_train_the_run_of_one(config_file, one, tmp_path):
    statuses, outputs = _end(_start_two(config_file, tmp_path))
    assert statuses == [0, 0], outputs
    assert records.read_result(tmp_path)["device"].startswith("2 x cpu")
    assert_same_run(tmp_path, one)


@pytest.mark.slow
def test_two_processes_solve_the_head_of_one(linear_config, linear_run, tmp_path):
    config_file = _write_config(tmp_path, linear_config)
    statuses, outputs = _end(_start_two(config_file, tmp_path / "run"))
    assert statuses == [0, 0], outputs
    assert_same_run(tmp_path / "run", linear_run.workdir)
    heads = [
        run.network.variables["params"]["head"]["logits"]["kernel"]
        for run in (load_run(tmp_path / "run"), linear_run)
    ]
    np.testing.assert_allclose(*heads, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_killed_processes_are_resumed_by_one_and_by_two(
    count, config_file, one, tmp_path
):
    started = _start_two(config_file, tmp_path, "--checkpoint_seconds=0")
    _wait_for_epochs(tmp_path, 2, started)
    _kill(started)
    assert not records.read_result(tmp_path)
    seconds = np.random.default_rng().uniform(0, 15)  # at any moment of a start
    print(f"killed again after {seconds} s")
    started = _start_two(config_file, tmp_path, "--checkpoint_seconds=0")
    time.sleep(seconds)
    _kill(started)
    if count == 1:
        arguments = [f"--config={config_file}", f"--workdir={tmp_path}"]
        done = harness.run_apart("train", *arguments)
        assert done.returncode == 0, done.stderr
    else:
        statuses, outputs = _end(_start_two(config_file, tmp_path))
        assert statuses == [0, 0], outputs
    assert_same_run(tmp_path, one)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_the_other_process_ends_when_one_is_killed(killed, config_file, tmp_path):
    started = _start_two(config_file, tmp_path)
    _wait_for_epochs(tmp_path, 1, started)
    started[killed].kill()
    statuses, outputs = _end(started, seconds=30)
    assert statuses[killed] == -9 and statuses[1 - killed] not in (0, None)
    assert re.search("another process has ended|died|heartbeat", outputs[1 - killed])


@pytest.mark.slow
def test_an_interruption_of_one_process_ends_both_with_their_state(
    config_file, one, tmp_path
):
    started = _start_two(config_file, tmp_path)
    _wait_for_epochs(tmp_path, 1, started)
    started[1].send_signal(signal.SIGTERM)
    statuses, outputs = _end(started)
    assert 0 not in statuses
    assert "to resume the run" in "".join(outputs)
    statuses, outputs = _end(_start_two(config_file, tmp_path))
    assert statuses == [0, 0], outputs
    assert_same_run(tmp_path, one)


@pytest.mark.slow
def test_two_processes_evaluate_and_attribute_as_one_does(one, expected, tmp_path):
    for script in ("evaluate", "attribute"):
        started = start_together(
            *("-m", f"scripts.{script}", f"--workdir={one}"),
            *(f"--out={tmp_path / script}", *USES[script], "--distributed"),
            *(f"--coordinator=127.0.0.1:{free_port()}", "--num_processes=2"),
        )
        statuses, outputs = _end(started)
        assert statuses == [0, 0], outputs
    for file in ("evaluate/metrics.json", "attribute/index.jsonl"):
        texts = [(folder / file).read_text() for folder in (tmp_path, expected)]
        numbers = [
            [float(number) for number in re.findall(r"-?\d+\.\d+", text)]
            for text in texts
        ]
        assert numbers[0] == pytest.approx(numbers[1], abs=1e-4)
    assert (tmp_path / "attribute" / "grad_cam.png").exists()
