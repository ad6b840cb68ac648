"""Define the flag --config: a Python file, and values that replace the file's values.

flags.adopt_module_key_flags(config_flag)
config = config_flag.CONFIG.value  # of `--config=configs/vgg16.py --config.seed=1`
config_flag.name()  # 'vgg16'
"""

import sys
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from scripts import errors
from seeflower_jax import hints

_PROJECT = Path(__file__).parent.parent  # has configs/, also when installed


def name() -> str:
    """Return 'inception_linear' for `--config=configs/inception.py:linear`."""
    typed = config_flags.get_config_filename(flags.FLAGS["config"])
    path, *variant = typed.split(":", 1)
    return "_".join([Path(path).stem, *variant])


class _ConfigParser(flags.ArgumentParser):
    """Read a config file, and describe in one line why a file cannot be read."""

    def __init__(self, parser: flags.ArgumentParser):
        """Wrap the parser of `config_flags.DEFINE_config_file`."""
        self._parser = parser

    def flag_type(self) -> str:
        return self._parser.flag_type()

    def parse(self, argument: str) -> Any:
        """Return the config of `configs/inception.py` or `configs/inception.py:zca`.

        Raises:
          ValueError: if there is no such file or its code fails.
        """
        typed, *variant = argument.split(":", 1)
        paths = [path for path in (Path(typed), _PROJECT / typed) if path.is_file()]
        if not paths:
            raise ValueError(f"no such file{hints.did_you_mean_path(typed)}")
        try:
            return self._parser.parse(":".join([str(paths[0]), *variant]))
        except SystemExit as error:
            raise ValueError(f"the file calls sys.exit({error.code})") from error
        except Exception as error:
            # ml_collections puts its traceback into the message of these two types.
            wrapped = isinstance(error, TypeError | ValueError) and error.__context__
            raise ValueError(errors.describe(wrapped or error)) from error


try:
    CONFIG = config_flags.DEFINE_config_file(
        "config", None, "A file of configs/; --config.KEY=VALUE replaces a value."
    )
except flags.Error as error:  # ml_collections reads --flagfile here.
    script = Path(sys.argv[0]).stem
    print(f"scripts.{script}: {errors.describe_flags(error)}", file=sys.stderr)
    sys.exit(2)
flags.FLAGS["config"].parser = _ConfigParser(flags.FLAGS["config"].parser)
flags.mark_flag_as_required("config")
