"""Define the fixtures that all tests share."""

import gc
import os
import pathlib
import signal
import sys
import time
from collections.abc import Iterator

import pytest
from ml_collections import ConfigDict

os.environ.setdefault("KERAS_BACKEND", "jax")
# Several processes share the memory of a GPU, of which each would take three quarters.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax  # noqa: E402

from configs import vgg16  # noqa: E402
from seeflower_jax.experiment.train import train  # noqa: E402
from seeflower_jax.inference.run import Run, load_run  # noqa: E402
from seeflower_jax.sharding import compilation  # noqa: E402
from tests import fixtures, harness, peers, tiny_config  # noqa: E402

sys.meta_path.append(peers.Finder())
# Some shells ignore SIGINT in background jobs, and the scripts would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
_MAX_BYTES = 4 << 30  # memory of a test process before it forgets compiled functions
_CACHE_DIR = "~/.cache/seeflower_jax/tests"
_MAX_AGE = 14 * 86_400  # seconds


def pytest_configure() -> None:
    """Compile each function once for all tests, their scripts and later test runs.

    Most of the time of a first test run is compilation.
    """
    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    folder = compilation.folder(_CACHE_DIR)
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.is_file() and time.time() - path.stat().st_atime > _MAX_AGE:
            path.unlink(missing_ok=True)
    for key, value in {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }.items():
        jax.config.update(key, value)
        os.environ[key.upper()] = str(value)


def pytest_terminal_summary(terminalreporter, config) -> None:
    """Say which tests the default command leaves out, and how to run them."""
    if config.option.markexpr in config.getini("addopts"):
        terminalreporter.write_line(
            'Left out: tests marked long (-m "not slow" adds them) and slow (-m slow).'
        )


@pytest.fixture(scope="module", autouse=True)
def bounded_memory() -> Iterator[None]:
    """Forget compiled functions after a test module, if they take much memory."""
    yield
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    if pages * os.sysconf("SC_PAGE_SIZE") > _MAX_BYTES:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def assets() -> pathlib.Path:
    """Return the folder with the real images and weights.

    Without the folder the test is skipped, or fails if SEEFLOWER_REQUIRE_ASSETS is set.
    """
    default = "~/.cache/seeflower-assets"
    path = pathlib.Path(os.environ.get("SEEFLOWER_ASSETS", default)).expanduser()
    if not (path / "oxford_flowers102" / "jpg").is_dir():
        message = (
            f"{path} does not hold the real images and weights; "
            "set SEEFLOWER_ASSETS to the folder that holds them"
        )
        if os.environ.get("SEEFLOWER_REQUIRE_ASSETS"):
            pytest.fail(message)
        pytest.skip(message)
    return path


@pytest.fixture(scope="session")
def flowers(tmp_path_factory) -> pathlib.Path:
    """Return a small set of generated images in the official layout."""
    folder = tmp_path_factory.mktemp("flowers")
    fixtures.write_flowers(folder)
    return folder


@pytest.fixture(scope="session")
def narrow_weights(tmp_path_factory) -> pathlib.Path:
    """Return a Keras weight file of a narrow Inception-v3 with random variables."""
    path = tmp_path_factory.mktemp("weights") / "narrow_notop.h5"
    fixtures.write_inception_h5(path, fixtures.narrow_variables(seed=1))
    return path


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory, flowers) -> Run:
    """Return a run of the network `small`, for tests that only read a run.

    Its head is trained. It compiles in a fraction of the time of Inception-v3.
    """
    config = tiny_config.make_small(tiny_config.get_config())
    config.data.update(
        dir=str(flowers),
        shortest_side=80,
        cache_dir=str(tmp_path_factory.mktemp("cache")),
    )
    config.eval.size = 80
    config.test_time.views = ((80, 1.0),)
    config.stages.head.update(epochs=10, learning_rate=1e-2, validate_every=10)
    config.stages.finetune.epochs = 0
    workdir = tmp_path_factory.mktemp("run")
    train(config, workdir)
    return load_run(workdir)


@pytest.fixture(scope="session")
def inception_run(tmp_path_factory, flowers, narrow_weights) -> Run:
    """Return a run of a narrow Inception-v3 whose head is trained, not tested."""
    config = tiny_config.get_config()
    config.data.dir, config.init.weights = str(flowers), str(narrow_weights)
    config.data.cache_dir = str(tmp_path_factory.mktemp("cache"))
    config.stage_order = ("head",)
    workdir = tmp_path_factory.mktemp("inception")
    train(config, workdir, test=False)
    return load_run(workdir)


@pytest.fixture(scope="session")
def linear_config(tmp_path_factory, flowers) -> ConfigDict:
    """Return the config of a tiny run of the recipe `linear`, on a narrow VGG16."""
    config = vgg16.get_config("linear")
    config.model.width = fixtures.NARROW_WIDTH
    config.data.update(
        dir=str(flowers),
        verify=False,
        shortest_side=80,
        cache_dir=str(tmp_path_factory.mktemp("cache")),
    )
    config.init.weights = ""
    config.eval.update(size=80, batch_size=8)
    config.test_time.update(views=((80, 1.0),), hflip=False)
    config.stages.linear.all_views = False
    return config


@pytest.fixture(scope="session")
def linear_run(tmp_path_factory, linear_config) -> Run:
    """Return a run of `linear_config`, for tests that only read a run."""
    workdir = tmp_path_factory.mktemp("linear")
    train(linear_config, workdir)
    return load_run(workdir)


@pytest.fixture(scope="session")
def small_arguments(tmp_path_factory, flowers) -> list[str]:
    """Return arguments that make scripts.train take seconds on a config with `head`."""
    return [
        f"--config.data.dir={flowers}",
        f"--config.data.cache_dir={tmp_path_factory.mktemp('cache')}",
        "--config.data.verify=false",
        "--config.data.shortest_side=64",
        "--config.model.name=small",
        "--config.init.weights=",
        "--config.eval.size=64",
        "--config.eval.batch_size=8",
        "--config.test_time.views=((64, 1.0),)",
        "--config.stage_order=('head',)",
        "--config.stages.head.epochs=100",  # on saved features
        "--config.stages.head.batch_size=8",
        "--config.stages.head.learning_rate=0.01",
        "--config.stages.head.validate_every=100",
    ]


@pytest.fixture(scope="session")
def small_run(tmp_path_factory, small_arguments) -> pathlib.Path:
    """Return a run directory of configs/inception.py with the network `small`."""
    workdir = tmp_path_factory.mktemp("small") / "run"
    config = harness.ROOT / "configs" / "inception.py"
    recipe = f"--config={config}:three_stages"
    arguments = [recipe, f"--workdir={workdir}", *small_arguments]
    completed = harness.run_here("train", *arguments)
    assert completed.returncode == 0, completed.stderr
    return workdir
