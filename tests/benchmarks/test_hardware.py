"""What a program computes and moves, counted, and where a GPU's trace says that its time goes."""

import jax
import jax.numpy as jnp
import pytest
from jax.profiler import ProfileData

from benchmarks import kernels
from benchmarks.hardware import PEAKS, Work, library_bytes, rates
from nsneg_jax import models
from nsneg_jax.jobs import defaults
from nsneg_jax.parallel.mesh import data_mesh
from nsneg_jax.planning.flops import flops_of


@pytest.mark.slow
def test_flops_of_a_resnet50():
    """Its convolutions are known to take 4,087,136,256 multiplications per image; the backward pass
    takes twice as many, but for the input of the first one."""
    encoder, params, stats = models.structure(**defaults.pretraining("paper").model)
    images = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)

    def forward(params, stats, images):
        return encoder(params, stats, images, 1)[0]

    def gradients(params, stats, images):
        return jax.grad(lambda params: forward(params, stats, images).sum())(params)

    once, both = (
        flops_of(jax.make_jaxpr(f)(params, stats, images)) / 2 for f in (forward, gradients)
    )
    head = 2048 * 2048 + 2048 * 128
    assert once == pytest.approx(2 * (4_087_136_256 + head), rel=1e-6)
    stem = 2 * 112 * 112 * 64 * 3 * 7 * 7
    assert both == pytest.approx(3 * once - stem, rel=1e-3)


def convolve(x, w):
    return jax.lax.conv_general_dilated(
        x, w, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def test_flops_of_what_each_device_does_are_those_of_all():
    def product(a, b):
        return a @ b

    split, whole = jax.sharding.PartitionSpec("data"), jax.sharding.PartitionSpec()
    parted = jax.shard_map(product, mesh=data_mesh(), in_specs=(split, whole), out_specs=split)
    a, b = jnp.ones((16, 3)), jnp.ones((3, 5))
    assert flops_of(jax.make_jaxpr(parted)(a, b)) == flops_of(jax.make_jaxpr(product)(a, b))


def test_flops_are_those_that_xla_counts():
    x, w = jnp.ones((2, 9, 9, 6)), jnp.ones((3, 3, 6, 5))
    traced = jax.jit(convolve).trace(x, w)
    assert flops_of(traced.jaxpr) == 2 * (2 * 4 * 4 * 5) * (3 * 3 * 6)
    # without padding both count the same
    assert flops_of(traced.jaxpr) == traced.lower().cost_analysis()["flops"]
    batched = jax.jit(lambda a, b: jnp.einsum("bij,bkj->bik", a, b))
    traced = batched.trace(jnp.ones((4, 3, 7)), jnp.ones((4, 5, 7)))
    assert flops_of(traced.jaxpr) == traced.lower().cost_analysis()["flops"] == 2 * 4 * 3 * 5 * 7


def test_flops_of_loops_and_branches():
    x = jnp.ones((8, 8))
    once = 2 * 8**3

    def loop(x):
        return jax.lax.fori_loop(0, 5, lambda _, x: x @ x, x)

    def forms(x):
        return jax.lax.platform_dependent(x, cpu=lambda x: x @ x @ x, default=lambda x: x @ x)

    def unused(x):
        both = jax.jit(lambda x: (x @ x, x @ x @ x))(x)
        return both[0]

    assert flops_of(jax.make_jaxpr(loop)(x)) == 5 * once
    assert flops_of(jax.make_jaxpr(forms)(x)) == once
    assert flops_of(jax.make_jaxpr(unused)(x)) == once


def test_calls_to_libraries():
    hlo = """
ENTRY %main.9 (a.1: bf16[64,112], b.1: f32[8]) -> bf16[64,56] {
  %a.1 = bf16[64,112]{1,0} parameter(0)
  %b.1 = f32[8]{0} parameter(1)
  %fusion.2 = bf16[64,8]{1,0} fusion(%a.1, %b.1), kind=kLoop, calls=%fused
  %conv.3 = (bf16[64,56]{1,0}, u8[16]{0}) custom-call(%a.1, %fusion.2), custom_call_target="conv"
  ROOT %out.4 = bf16[64,56]{1,0} get-tuple-element(%conv.3), index=0
}
"""
    assert library_bytes(hlo) == 2 * 64 * 56 + 16 + 2 * 64 * 112 + 2 * 64 * 8


def test_shares_of_the_peak():
    kind = "NVIDIA H200"
    work = Work(0.25 * 2 * PEAKS[kind].flops, 0.5 * 2 * PEAKS[kind].bandwidth)
    found = rates(work, 1.0, kind, devices=2)
    assert found["share_of_peak_flops"] == 0.25 and found["share_of_peak_bandwidth"] == 0.5
    assert rates(work, 1.0, "cpu", 2)["share_of_peak_flops"] is None
    assert rates(Work(None, None), 1.0, kind, 1)["bytes_per_second"] is None


# a stream of a GPU, the same time again by operations, and a thread of the host
TRACE = """
planes {
  name: "/device:GPU:0"
  lines {
    name: "Stream #13(Compute)"
    events { metadata_id: 1 duration_ps: 3000000 stats { metadata_id: 1 str_value: "conv.7" } }
    events { metadata_id: 1 duration_ps: 3000000 stats { metadata_id: 1 str_value: "conv.7" } }
    events { metadata_id: 2 duration_ps: 2000000 }
  }
  lines { name: "XLA Ops" events { metadata_id: 1 duration_ps: 3000000 } }
  event_metadata { key: 1 value { id: 1 name: "sm90_xmma_fprop" } }
  event_metadata { key: 2 value { id: 2 name: "loop_add_fusion_2" } }
  stat_metadata { key: 1 value { id: 1 name: "hlo_op" } }
}
planes {
  name: "/host:CPU"
  lines {
    name: "python"
    events { metadata_id: 1 duration_ps: 9000000 stats { metadata_id: 1 str_value: "conv.7" } }
  }
  event_metadata { key: 1 value { id: 1 name: "Thunk" } }
  stat_metadata { key: 1 value { id: 1 name: "hlo_op" } }
}
"""
HLO = """
  %conv.7 = f32[8]{0} custom-call(%a), metadata={op_name="jit(step)/conv_general_dilated"}
  %loop_add_fusion.2 = f32[8]{0} fusion(%a), metadata={op_name="jit(step)/add" stack_frame_id=2}
"""


def test_kernels_of_a_gpu(tmp_path):
    trace = ProfileData.text_proto_to_serialized_xspace(TRACE)
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "host.xplane.pb").write_bytes(trace)
    found = kernels.summary(tmp_path, 2, HLO)
    assert found["kernel_seconds_per_step"] == pytest.approx(4e-6)
    assert found["kernels"] == [
        {
            "name": "sm90_xmma_fprop",
            "seconds_per_step": pytest.approx(3e-6),
            "calls_per_step": 1.0,
            "share": pytest.approx(0.75),
            "operation": "jit(step)/conv_general_dilated",
        },
        {
            "name": "loop_add_fusion_2",
            "seconds_per_step": pytest.approx(1e-6),
            "calls_per_step": 0.5,
            "share": pytest.approx(0.25),
            "operation": "jit(step)/add",
        },
    ]
