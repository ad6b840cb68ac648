"""Show or remove cached images and compiled functions.

    python -m scripts.cache --list
    python -m scripts.cache --clear --unused_days=30

--clear removes the caches that --list shows. --unused_days=30 restricts both to caches
that were not used for 30 days. The next run decodes images and compiles functions again
if it needs them. Downloads are kept.
"""

from absl import app, flags

from scripts import console
from seeflower_jax.data import cache_folder

_LIST = flags.DEFINE_bool("list", False, "Show the caches with their sizes.")
_CLEAR = flags.DEFINE_bool("clear", False, "Remove the caches.")
_CACHE_DIR = flags.DEFINE_string(
    "cache_dir", None, "The cache directory; the default is ~/.cache/seeflower_jax."
)
_UNUSED_DAYS = flags.DEFINE_float(
    "unused_days", 0.0, "Only caches that were not used in this number of days.", 0.0
)


def main(_: list[str]) -> None:
    if _LIST.value == _CLEAR.value:
        raise app.UsageError("expected either --list or --clear")
    entries = cache_folder.entries(_CACHE_DIR.value, _UNUSED_DAYS.value)
    if _CLEAR.value:
        entries = cache_folder.remove(entries)
    rows = [entry.to_dict() for entry in entries]
    lines = [
        f"{entry.size / 1e6:10,.1f} MB  {row['used']}  {entry.name}"
        for entry, row in zip(entries, rows, strict=True)
    ]
    total = sum(entry.size for entry in entries)
    verb = "removed" if _CLEAR.value else "in total"
    lines.append(f"{total / 1e6:10,.1f} MB {verb}")
    console.show({"caches": rows, "bytes": total}, "\n".join(lines))


if __name__ == "__main__":
    console.run(main)
