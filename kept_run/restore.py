"""Rebuilds a run directory from its difference to ImageNet's weights.

    python restore.py FOLDER WORKDIR WEIGHTS.h5

FOLDER holds delta.npz.xz and the JSON files of the run. Differences are 8-bit per
output channel: the variables are near those that were trained, not equal to the bit.
"""
import contextlib, io, json, lzma, pathlib, shutil, sys
import jax, numpy as np
from flax import traverse_util
from seeflower_jax import models
from seeflower_jax.pretrained import catalog
from seeflower_jax.training.checkpoint import Checkpoints

def base(spec, weights):
    _, variables, _ = catalog.load_pretrained(spec, weights, "new", jax.random.key(0))
    flat = traverse_util.flatten_dict(variables, sep="/")
    return {k: np.zeros_like(v) if "/head/" in k else np.asarray(v) for k, v in flat.items()}

def pack(variables, spec, weights, path):
    start, arrays = base(spec, weights), {}
    for name, value in traverse_util.flatten_dict(variables, sep="/").items():
        d = np.asarray(value, np.float32) - start[name]
        if not d.any():
            continue
        if d.ndim == 1:
            arrays[name] = d
            continue
        scale = np.abs(d).max(tuple(range(d.ndim - 1)), keepdims=True) / 127
        scale = np.where(scale == 0, 1, scale)
        arrays[name] = np.round(d / scale).astype(np.int8)
        arrays[name + "#"] = scale.astype(np.float32)
    buffer = io.BytesIO(); np.savez(buffer, **arrays)
    path.write_bytes(lzma.compress(buffer.getvalue(), preset=6))

def unpack(spec, weights, path):
    flat = base(spec, weights)
    arrays = np.load(io.BytesIO(lzma.decompress(path.read_bytes())))
    for name in arrays.files:
        if not name.endswith("#"):
            d = arrays[name].astype(np.float32)
            flat[name] = flat[name] + (d * arrays[name + "#"] if name + "#" in arrays.files else d)
    return {"batch_stats": {}, **traverse_util.unflatten_dict(flat, sep="/")}

if __name__ == "__main__":
    folder, workdir = (pathlib.Path(a).expanduser() for a in sys.argv[1:3])
    workdir.mkdir(parents=True)
    for file in folder.glob("*.json*"):
        shutil.copy(file, workdir)
    for file in folder.glob("logits_*"):
        shutil.copy(file, workdir)
    meta = json.loads((workdir / "best_meta.json").read_text())
    spec = models.ModelSpec(**meta["spec"])
    variables = unpack(spec, str(pathlib.Path(sys.argv[3]).expanduser()), folder / "delta.npz.xz")
    with contextlib.closing(Checkpoints(workdir)) as checkpoints:
        checkpoints.save_best(meta["run_step"], variables, {k: v for k, v in meta.items() if k != "run_step"})
