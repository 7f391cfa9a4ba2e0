"""Plans a step on one device, then runs it: prints what was planned and what was used, as JSON.

A process of its own, because peak memory is that of a process. MALLOC_ARENA_MAX=1 belongs to it:
memory that malloc keeps for each thread is not the program's.
"""

import ctypes
import gc
import json
import sys

import jax
import numpy as np

from configs import patch
from nsneg_jax.jobs.build import build
from nsneg_jax.parallel import mesh
from nsneg_jax.planning.compile import compile_for
from nsneg_jax.training.step import compile_step

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_compilation_cache_dir", sys.argv[1])

SIZE = 64
config = patch.get_config()
config.update_from_flattened_dict(
    {
        "batch_size": 64,
        "data.image_size": SIZE,
        "model.arch": "resnet18",
        "model.bn_groups": 1,
        "moco.queue_size": 4096,
    }
)


def memory(name: str) -> int:
    with open("/proc/self/status") as lines:
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


plan = compile_for(config, 1)._asdict()
devices = mesh.data_mesh()
method, state = build(config, 10)
shapes = jax.eval_shape(lambda: state)
# a state from nothing, so that its memory counts from here on
make = jax.jit(lambda: jax.tree.map(lambda x: jax.numpy.full(x.shape, 0.01, x.dtype), shapes))
make = make.lower().compile()
used = {
    "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params_q)),
    "state": sum(leaf.nbytes for leaf in jax.tree.leaves(state)),
}
del state


def batch(seed: int) -> dict[str, jax.Array]:
    shape = (2, config.batch_size, SIZE, SIZE, 3)
    crops = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    return jax.device_put({"query": crops[0], "key": crops[1]}, mesh.split_batch(devices))


step = compile_step(method, devices).lower(shapes, batch(0)).compile()
used["flops"] = step.cost_analysis()["flops"]
gc.collect()
ctypes.CDLL("libc.so.6").malloc_trim(0)
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the peak starts anew
before = memory("VmRSS")
state = make()
for seed in range(3):
    waiting = batch(seed)
    state, metrics = step(state, waiting)
    jax.block_until_ready(metrics)
used["total"] = memory("VmHWM") - before
print(json.dumps({"planned": {name: plan[name] for name in used}, "used": used}))
