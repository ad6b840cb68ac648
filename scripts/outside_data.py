r"""Measure what pretraining on outside images adds, on drawn flowers.

    python -m scripts.outside_data --config=configs/quickstart.py --out=runs/outside
    python -m scripts.outside_data --config=configs/quickstart.py --out=runs/outside \
        --species=0,48 --seeds=0,1,2 --results=results

--species lists numbers of outside species; 0 trains from scratch. The script trains a
run for each number and each seed. The seed also draws the images. --results=results
writes test top-1 of all runs to outside_data.json of that folder.
"""

from absl import flags

from scripts import config_flag, console
from seeflower_jax import records
from seeflower_jax.studies import outside_data, quickstart

flags.adopt_module_key_flags(config_flag)
_OUT = flags.DEFINE_string("out", None, "Folder of the run directories.", required=True)
_SPECIES = flags.DEFINE_list("species", ["0", "48"], "Numbers of outside species.")
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of each row.")
_RESULTS = flags.DEFINE_string("results", None, "Folder of recorded results.")
for _name in ("species", "seeds"):
    flags.register_validator(
        _name,
        lambda values: values and all(map(str.isdecimal, values)),
        "expected whole numbers, such as 0,1,2",
    )


def main(_) -> None:
    config, command = config_flag.CONFIG.value, records.typed_command()
    quickstart.check(config)
    species, seeds = ([int(v) for v in flag.value] for flag in (_SPECIES, _SEEDS))
    rows = outside_data.measure(config, _OUT.value, species, seeds, command)
    lines = [
        f"{count:>4} outside species  test top-1 {row['mean']:.4f} "
        f"[{min(row['top1']):.4f}, {max(row['top1']):.4f}]"
        for count, row in rows.items()
    ]
    if _RESULTS.value:
        path = outside_data.record(rows, config, seeds, _RESULTS.value, command)
        lines.append(str(path))
    console.show({"outside_species": rows}, "\n".join(lines))


if __name__ == "__main__":
    console.run(main)
