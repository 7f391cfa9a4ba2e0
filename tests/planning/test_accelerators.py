"""Every program of every config, compiled for accelerators that are not here: `make accelerators`.

Needs the compilers, and takes hours where there are few cores. `-k "h100 and tiny"` and the like
choose: the names of the tests have the target, the config and the program in them.
"""

import hashlib
import re
import time
from functools import cache

import jax
import pytest

from configs import (
    byol,
    claim,
    compare,
    evaluate,
    finetune,
    ifm,
    linear,
    moco,
    mocov3,
    patch,
    simclr,
    texture,
)
from nsneg_jax.parallel import mesh
from nsneg_jax.planning.collectives import payload_by_kind
from nsneg_jax.planning.compile import trace_step
from nsneg_jax.planning.cost import Cost
from nsneg_jax.planning.programs import costs
from nsneg_jax.planning.targets import read_target

pytestmark = pytest.mark.slow

TARGETS = ("h100:1", "h100:8", "v5e:2x4", "v5e:4x8")
PRETRAINING = {
    f"{file.__name__.removeprefix('configs.')}:{variant}": (file, variant)
    for file, variants in (
        (moco, moco.VARIANTS),
        (patch, patch.VARIANTS),
        (texture, texture.VARIANTS),
        *((file, file.VARIANTS) for file in (byol, simclr, mocov3, ifm)),
        *(
            (file, (*file.VARIANTS, *(file.LARGE + name for name in file.VARIANTS)))
            for file in (claim, compare)
        ),
    )
    for variant in variants
}
OTHERS = {
    "probe": linear,
    "finetune": finetune,
    "knn": linear,
    "features": linear,
    "evaluate": evaluate,
    "texture": texture,
}


def config_of(name: str, **changes):
    file, variant = PRETRAINING[name]
    config = file.get_config(variant).copy_and_resolve_references()
    config.update_from_flattened_dict(changes)
    return config


@cache
def signature(name: str, **changes) -> str:
    """Of the step's program before any compiler, but for the values of its fractions.

    Configs of one signature differ in such values only, so that a compiler sees the same
    operations on the same shapes. 0, 1 and -1 are no such values: they make operations vanish.
    """
    step = trace_step(config_of(name, **changes), mesh.data_mesh(jax.devices()[:1]))
    text = step.traced.lower(lowering_platforms=("cpu", "cuda", "tpu")).as_text()
    masked = re.sub(r"(?!-?[01]\.0+e\+00\b)-?\b\d\.\d+e[+-]\d+", "x", text.lower())
    return hashlib.sha256(masked.encode()).hexdigest()


compiled: dict[tuple[str, str], tuple[str, Cost]] = {}


@pytest.fixture
def compile_step(capsys):
    """The cost of a config's step on a target; of each signature only the first is compiled."""

    def compile_step(name: str, target: str, **changes) -> Cost:
        installed(target)
        key = target, signature(name, **changes)
        if key not in compiled:
            (cost,) = all_costs(capsys, "step", config_of(name, **changes), target, name).values()
            compiled[key] = name, cost
        elif compiled[key][0] != name:
            say(capsys, f"{target} {name}: the program of {compiled[key][0]}")
        return compiled[key][1]

    return compile_step


def installed(target: str) -> None:
    package = read_target(target).chip.package
    if not read_target(target).is_installed:
        pytest.skip(f"{package} is not installed")


def all_costs(capsys, program, config, target, name, model=None) -> dict[str, Cost]:
    """Compiles a job's programs, and reports its progress."""
    found, start = {}, time.monotonic()
    model = model or config.model
    for part, _, cost in costs(program, config, read_target(target), model.to_dict(), 100):
        found[part] = cost
        seconds, start = time.monotonic() - start, time.monotonic()
        fell_back = ", without what needs tuning" if cost.options else ""
        say(
            capsys,
            f"{target} {name} {part}: {seconds:.0f} s, temporary {cost.temporary / 1e9:.2f} GB, "
            f"moved {cost.moved / 1e9:.1f} GB{fell_back}",
        )
    return found


def say(capsys, text: str) -> None:
    with capsys.disabled():
        print(f"\n  {text}", end="", flush=True)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", PRETRAINING)
def test_step_compiles(name, target, compile_step):
    cost = compile_step(name, target)
    assert cost.temporary > 0 and cost.moved > 0 and cost.unknown_loops == 0
    assert {c.kind for c in cost.collectives} <= {"all-gather", "all-reduce"}
    assert bool(cost.collectives) == (target != "h100:1")


@pytest.mark.parametrize("target", ["h100:1", "v5e:2x4"])
@pytest.mark.parametrize("variant", ["", "tiny"])
@pytest.mark.parametrize("program", OTHERS)
def test_other_programs_compile(program, variant, target, capsys):
    installed(target)
    config, model = OTHERS[program].get_config(variant), patch.get_config(variant).model
    config = config.copy_and_resolve_references()
    config.batch_size = config.batch_size // 8 * 8  # 100 of a tiny one, for 8 devices
    found = all_costs(capsys, program, config, target, variant or "default", model)
    assert len(found) == {"probe": 3, "finetune": 3, "evaluate": len(found)}.get(program, 1)
    if program == "evaluate":
        names = {part.split()[1] for part in found}
        assert {"classifier", "gaussian_noise", "jpeg_compression", "saturate"} <= names
    for part, cost in found.items():
        assert cost.moved > 0, part


RECIPE = "patch:"  # recipe B with patch negatives, batch 512
BFLOAT16 = {"model.dtype": "bfloat16"}


def test_recipe_on_an_h100_keeps_within_its_budget(compile_step):
    cost = compile_step(RECIPE, "h100:1", **BFLOAT16)
    assert cost.entry <= 335e9
    assert cost.transposed <= 8e9
    assert cost.temporary <= 28e9


def test_recipe_on_eight_v5e_keeps_within_its_budget(compile_step):
    cost = compile_step(RECIPE, "v5e:2x4", **BFLOAT16)
    assert cost.compiler_bytes <= 62e9
    assert cost.temporary <= 4.5e9


def test_recipe_in_four_parts_fits_into_a_small_card(compile_step):
    """A quarter of the activations, and little more traffic."""
    whole = compile_step(RECIPE, "h100:1", **BFLOAT16)
    parts = compile_step(RECIPE, "h100:1", **BFLOAT16 | {"optimizer.accumulate": 4})
    assert parts.temporary <= 0.3 * whole.temporary
    assert parts.total <= 8e9
    assert parts.moved <= 1.03 * whole.moved


VIT = BFLOAT16 | {
    "model.arch": "vit_small",
    "model.bn_groups": 1,
    "optimizer.name": "adamw",
    "optimizer.learning_rate": 1.5e-4,
}


def test_a_vit_on_an_h100_keeps_within_its_budget(compile_step):
    cost = compile_step(RECIPE, "h100:1", **VIT)
    assert cost.moved <= 510e9
    assert cost.transposed <= 116e9
    assert cost.temporary <= 45e9


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_recipe_fits_into_eight_v5e(dtype, compile_step):
    cost = compile_step(RECIPE, "v5e:2x4", **{"model.dtype": dtype})
    assert cost.total <= read_target("v5e:2x4").chip.memory


@pytest.mark.parametrize("target", ["h100:8", "v5e:2x4"])
def test_recipe_exchanges_what_the_design_lists(target, compile_step):
    """docs/devices.md: crops of keys and queries; embeddings; gradients, statistics, metrics."""
    cost = compile_step(RECIPE, target)
    step = trace_step(config_of(RECIPE), mesh.data_mesh(jax.devices()[:1]))
    crops, embeddings = 2 * 512 * 224 * 224 * 3, 2 * 512 * 128 * 4
    sums = bytes_of(step.state.params_q) + 3 * bytes_of(step.state.stats_q) + 24
    found = payload_by_kind(cost.collectives)
    assert found.keys() == {"all-gather", "all-reduce"}
    assert found["all-gather"] == crops + embeddings
    # These compilers sum the statistics of one pass twice, and the gradient of the stem's kernel
    # [7, 7, 3, 64] in the form of a convolution of blocks, [4, 4, 16, 64].
    most = sums + bytes_of(step.state.stats_q) + 4 * 64 * (4 * 4 * 16 - 7 * 7 * 3)
    assert sums <= found["all-reduce"] <= most


def bytes_of(tree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
