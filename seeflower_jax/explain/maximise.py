"""Class activation maximisation for a run's network, from its directory to pictures.

    result = maximise_classes(experiment.load_run(workdir), "activation_max", ["7"])

This module connects the rooms, as `experiment` does for training.
"""

import functools
import os
import pathlib
import re
import time
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from PIL import Image

from seeflower_jax import experiment, models, records
from seeflower_jax.attribution import activation_max
from seeflower_jax.data import augment, loader
from seeflower_jax.evaluation import predict
from seeflower_jax.explain import class_index
from seeflower_jax.report import attribution as figures

_NATURAL_PICTURES = 256  # of training, that naturalness is measured by


def maximise_classes(
    run: experiment.Run,
    out: str | os.PathLike,
    classes: Sequence[str] = (),
    form: str = "robust",
    *,
    size: int = 0,
    steps: int = 256,
    seeds: int = 1,
    batch_size: int = 34,
    judge: experiment.Run | None = None,
    command: str = "",
    results: str | os.PathLike | None = None,
) -> dict:
    """Writes a picture per class, a sheet, the score curves and the result.

    Args:
      run: whose network is asked.
      out: the folder.
      classes: names or indices; all if empty.
      form: key of `activation_max.FORMS`.
      size: side of the pictures; 0 is the network's.
      steps: of each optimisation.
      seeds: starts per class; the picture of the best score is kept.
      batch_size: classes at once.
      judge: a run of another network, whose first answer is counted.
      command: what was typed, for the record.
      results: a folder whose activation_max.json gets the counts; needs a judge.

    Returns:
      The content of `result.json`.

    Raises:
      ValueError: for an unknown class, and for `results` without a judge.
    """
    if results is not None and judge is None:
        raise ValueError("a recorded result needs the run of a judge")
    names = run.class_names
    labels = [class_index(name, names) for name in classes] or range(len(names))
    labels = np.array(labels, np.int32)
    out = pathlib.Path(out).expanduser()
    out.mkdir(parents=True, exist_ok=True)
    size = size or run.spec.input_size
    preprocess = run.preprocess
    natural = None
    if activation_max.FORMS[form].naturalness:
        natural = _natural_statistics(run, size)

    @jax.jit
    def maximise(variables, labels, key, natural):
        return activation_max.maximise(
            models.bind(run.spec, variables, preprocess),
            labels,
            key,
            activation_max.FORMS[form],
            size=size,
            steps=steps,
            natural=natural,
            on_step=lambda _: bar.update(),
        )

    started, parts = time.monotonic(), []
    firsts = range(0, len(labels), batch_size)
    total = len(firsts) * seeds * steps
    with tqdm.tqdm(total=total, desc="maximising", unit="step") as bar:
        for first in firsts:
            part = labels[first : first + batch_size]
            rows = np.resize(part, min(batch_size, len(labels)))
            best = None
            for seed in range(seeds):
                key = jax.random.key(seed)
                found = maximise(run.variables, jnp.array(rows), key, natural)
                best = found if best is None else _better(best, found)
            parts.append(
                (
                    np.asarray(best.images)[: len(part)],
                    np.asarray(best.curves).T[: len(part)],
                    np.asarray(best.scores)[: len(part)],
                )
            )
            if lost := [names[i] for i in part[~np.isfinite(parts[-1][2])]]:
                raise FloatingPointError(
                    f"the scores of {lost} became NaN or infinite; no picture of their "
                    "batch was written. Try --form=plain"
                )
            for image, label in zip(parts[-1][0], part, strict=True):
                stem = re.sub(r"[^\w-]+", "_", names[label])
                picture = Image.fromarray(image.round().astype(np.uint8))
                picture.save(out / f"{label:03d}_{stem}.png")
        jax.effects_barrier()  # the bar's last steps
    images, curves, scores = map(np.concatenate, zip(*parts, strict=True))
    result = {
        "model": run.spec.name,
        "form": form,
        "size": size,
        "steps": steps,
        "seeds": seeds,
        "classes": len(labels),
        "recognised": {run.spec.name: _recognised(run, images, labels)},
        "seconds": round(time.monotonic() - started, 1),
        "scores": {names[i]: float(s) for i, s in zip(labels, scores, strict=True)},
        **records.provenance(command),
    }
    if judge is not None:
        result["judge"] = judge.spec.name
        result["recognised"][judge.spec.name] = _recognised(judge, images, labels)
    titles = [names[label] for label in labels]
    figures.write_sheet(out / "sheet.png", images, titles)
    figures.write_score_curves(out / "curves.png", curves, titles)
    records.write_json(out / "result.json", result)
    if results is not None:
        entry = {key: value for key, value in result.items() if key != "scores"}
        entry |= {
            "recognised": result["recognised"][judge.spec.name],
            "recognised_by_itself": result["recognised"][run.spec.name],
            "run": records.config_hash(run.config),
            "judge_run": records.config_hash(judge.config),
        }
        path = pathlib.Path(results) / "activation_max.json"
        records.record(path, run.spec.name, form, entry)
    return result


def _natural_statistics(run: experiment.Run, size: int) -> dict:
    """What `activation_max.statistics` gives for training pictures of a size."""
    pictures = experiment.Pictures.open(run.config, run.workdir)
    train = pictures.source.part("train")
    chosen = np.random.default_rng(0).permutation(train)[:_NATURAL_PICTURES]

    @jax.jit
    def moments(variables, batch):
        images = augment.center_crop(
            batch["canvas"],
            batch["sizes"],
            size,
            run.crop,
            keep_aspect=run.keep_aspect,
        )
        network = models.bind(run.spec, variables, run.preprocess)
        return activation_max.moments(network(images)[1])

    mesh = loader.make_mesh()
    variables = loader.replicate(run.variables, mesh)
    found = predict.run(moments, variables, pictures.reader, chosen, 32, mesh)
    return activation_max.statistics(found)


def read_pictures(folder: str | os.PathLike) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (class index, RGB uint8 [H, W, 3]) of what `maximise_classes` wrote.

    In the order of classes; nothing where nothing was written.
    """
    for path in sorted(pathlib.Path(folder).glob("[0-9]*_*.png")):
        with Image.open(path) as image:
            yield int(path.name.partition("_")[0]), np.asarray(image)


def _better(a, b):
    """Of two results, the picture of the larger score for each class."""
    first = a.scores >= b.scores
    return activation_max.Maximised(
        jnp.where(first[:, None, None, None], a.images, b.images),
        jnp.where(first, a.curves, b.curves),
        jnp.where(first, a.scores, b.scores),
    )


def _recognised(run: experiment.Run, images: np.ndarray, labels: np.ndarray) -> int:
    """How many pictures a run's network, at its own size, gives their class."""
    preprocess, side = run.preprocess, run.size

    @functools.partial(jax.jit, static_argnums=2)
    def answer(variables, images, side):
        resized = jax.image.resize(images, (len(images), side, side, 3), "bilinear")
        return models.bind(run.spec, variables, preprocess)(resized)[0].argmax(-1)

    found = [
        answer(run.variables, images[i : i + 32], side)
        for i in range(0, len(images), 32)
    ]
    return int((np.concatenate(found) == labels).sum())
