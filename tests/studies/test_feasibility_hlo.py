"""The reader of compiled programs: on hand-made text, and on programs whose collectives are known by construction."""

import json
import os
import subprocess
import sys

import pytest

from ccl_jax.studies.hlo import Collective, collectives, parse, running, unknown_loops
from ccl_jax.studies.hlo_traffic import hbm_traffic

# Two loops, one in the other: the inner says how often it runs, the outer compares its counter, which starts at 2.
NESTED = """HloModule jit_f, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%inner_body (p: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %p = (s32[], f32[4,8]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %x = f32[4,8]{1,0} get-tuple-element(%p), index=1
  %all-reduce.1 = f32[4,8]{1,0} all-reduce(%x), channel_id=1, replica_groups={{0,1},{2,3}}, to_apply=%add
  ROOT %t = (s32[], f32[4,8]{1,0}) tuple(%i, %all-reduce.1)
}

%inner_cond (p.1: (s32[], f32[4,8])) -> pred[] {
  %p.1 = (s32[], f32[4,8]{1,0}) parameter(0)
  ROOT %unclear = pred[] custom-call(%p.1), custom_call_target="who_knows"
}

%outer_body (q: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %q = (s32[], f32[4,8]{1,0}) parameter(0)
  %while.1 = (s32[], f32[4,8]{1,0}) while(%q), condition=%inner_cond, body=%inner_body, KNOWN
  %y = f32[4,8]{1,0} get-tuple-element(%while.1), index=1
  %all-gather.1 = bf16[16,8]{1,0} all-gather(%y), channel_id=2, replica_groups=[1,4]<=[4], dimensions={0}
  %j = s32[] get-tuple-element(%while.1), index=0
  ROOT %u = (s32[], f32[4,8]{1,0}) tuple(%j, %y)
}

%outer_cond (q.1: (s32[], f32[4,8])) -> pred[] {
  %q.1 = (s32[], f32[4,8]{1,0}) parameter(0)
  %j.1 = s32[] get-tuple-element(%q.1), index=0
  %bound = s32[] constant(9)
  ROOT %less = pred[] compare(%j.1, %bound), direction=LT
}

ENTRY %main (x.1: f32[4,8]) -> f32[4,8] {
  %x.1 = f32[4,8]{1,0} parameter(0)
  %two = s32[] constant(2)
  %start = (s32[], f32[4,8]{1,0}) tuple(%two, %x.1)
  %while.2 = (s32[], /*index=1*/f32[4,8]{1,0}) while(%start), condition=%outer_cond, body=%outer_body
  ROOT %z = f32[4,8]{1,0} get-tuple-element(%while.2), index=1
}
""".replace('KNOWN', 'backend_config={"known_trip_count":{"n":"5"}}')


def test_counts_of_nested_loops_multiply():
    program = parse(NESTED)
    assert [(place.name, place.count) for place in running(program)] == [
        ('main', 1),
        ('outer_body', 7),
        ('inner_body', 35),
    ]
    found = {c.kind: (c.size, c.group, c.count) for c in collectives(program)}
    assert found == {'all-reduce': (4 * 8 * 4, (0, 1), 35), 'all-gather': (16 * 8 * 2, (0, 1, 2, 3), 7)}
    assert unknown_loops(program) == 0


def test_a_loop_of_unknown_length_counts_once_and_is_told():
    program = parse(NESTED.replace(', backend_config={"known_trip_count":{"n":"5"}}', ''))
    assert unknown_loops(program) == 1
    assert {c.kind: c.count for c in collectives(program)} == {'all-reduce': 7, 'all-gather': 7}


# As libtpu writes it: a gather starts before a loop, goes on beside the fusions in it, and ends after it. Another
# collective of the loop has no start. A reduce-scatter is a fusion of an all-reduce and a slice of it.
BESIDE = """HloModule jit_g

%begin (s: bf16[8,16]) -> (bf16[8,16], bf16[32,16]) {
  %s = bf16[8,16]{1,0:T(8,128)(2,1)} parameter(0)
  %gather.1 = bf16[32,16]{1,0} all-gather(%s), channel_id=7, GROUPS, dimensions={0}
  ROOT %cc = (bf16[8,16]{1,0}, bf16[32,16]{1,0}) custom-call(%gather.1), custom_call_target="AsyncCollectiveStart"
}

%beside (s.1: bf16[8,16], f: bf16[32,16], w: bf16[6,10,16]) -> (bf16[1,10,16], bf16[32,16]) {
  %s.1 = bf16[8,16]{1,0} parameter(0)
  %f = bf16[32,16]{1,0} parameter(1)
  %w = bf16[6,10,16]{2,1,0} parameter(2)
  %zero = s32[] constant(0)
  %cut = bf16[1,10,16]{2,1,0} dynamic-slice(%w, %zero, %zero, %zero), dynamic_slice_sizes={1,10,16}
  %gather.2 = bf16[32,16]{1,0} all-gather(%s.1), channel_id=7, GROUPS, dimensions={0}
  ROOT %both = (bf16[1,10,16]{2,1,0}, bf16[32,16]{1,0}) tuple(%cut, %f)
}

%scattered (g: f32[64,16]) -> f32[8,16] {
  %g = f32[64,16]{1,0} parameter(0)
  %whole = f32[64,16]{1,0} all-reduce(%g), channel_id=9, replica_groups=[1,8]<=[8], to_apply=%any
  %nil = s32[] constant(0)
  ROOT %own = f32[8,16]{1,0} dynamic-slice(%whole, %nil, %nil), dynamic_slice_sizes={8,16}
}

%body (p: (s32[], bf16[8,16], bf16[32,16], bf16[6,10,16])) -> (s32[], bf16[8,16], bf16[32,16], bf16[6,10,16]) {
  %p = (s32[], bf16[8,16]{1,0}, bf16[32,16]{1,0}, bf16[6,10,16]{2,1,0}) parameter(0)
  %a = bf16[8,16]{1,0} get-tuple-element(%p), index=1
  %b = bf16[32,16]{1,0} get-tuple-element(%p), index=2
  %c = bf16[6,10,16]{2,1,0} get-tuple-element(%p), index=3
  %step = (bf16[1,10,16]{2,1,0}, bf16[32,16]{1,0}) fusion(%a, %b, %c), kind=kLoop, calls=%beside
  %permute = bf16[8,16]{1,0} collective-permute(%a), channel_id=8, source_target_pairs={{3,5},{5,3}}
  ROOT %r = (s32[], bf16[8,16]{1,0}, bf16[32,16]{1,0}, bf16[6,10,16]{2,1,0}) tuple(%a, %permute, %b, %c)
}

%cond (p.1: (s32[], bf16[8,16], bf16[32,16], bf16[6,10,16])) -> pred[] {
  %p.1 = (s32[], bf16[8,16]{1,0}, bf16[32,16]{1,0}, bf16[6,10,16]{2,1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p.1), index=0
  %six = s32[] constant(6)
  ROOT %lt = pred[] compare(%i, %six), direction=LT
}

ENTRY %main (s.2: bf16[8,16], w.2: bf16[6,10,16], g.2: f32[64,16], m: f32[3,5]) -> f32[8,16] {
  %s.2 = bf16[8,16]{1,0} parameter(0)
  %w.2 = bf16[6,10,16]{2,1,0} parameter(1)
  %g.2 = f32[64,16]{1,0} parameter(2)
  %m = f32[3,5]{1,0:T(8,128)S(1)} parameter(3)
  %started = (bf16[8,16]{1,0}, bf16[32,16]{1,0}) fusion(%s.2), kind=kCustom, calls=%begin
  %near = f32[3,5]{1,0:T(8,128)S(1)} add(%m, %m), frontend_attributes={text="a line
}} break"}, metadata={op_name="x"}
  %loop = (s32[], bf16[8,16]{1,0}, bf16[32,16]{1,0}, bf16[6,10,16]{2,1,0}) while(%started), condition=%cond, body=%body
  ROOT %out = f32[8,16]{1,0} fusion(%g.2), kind=kCustom, calls=%scattered
}
""".replace('GROUPS', "replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0'}")


def test_a_collective_beside_a_loop_counts_where_it_starts():
    found = {c.kind: (c.size, c.group, c.count) for c in collectives(parse(BESIDE))}
    assert found == {
        'all-gather': (32 * 16 * 2, (0, 2, 4, 6), 1),
        'collective-permute': (8 * 16 * 2, (3, 5), 6),
        'reduce-scatter': (64 * 16 * 4, tuple(range(8)), 1),
    }


def test_memory_traffic_counts_slices_once_and_nothing_that_stays_on_the_chip():
    # The loop's fusion reads a slice of the weights and writes it, six times; the sum lies on the chip.
    slices = 6 * 2 * (10 * 16 * 2)
    sent = 32 * 16 * 2 + 6 * 2 * (8 * 16 * 2) + 64 * 16 * 4
    own_part = 8 * 16 * 4
    assert hbm_traffic(parse(BESIDE)) == slices + sent + own_part


# A layer's part of a stack is read by a fusion in a fusion, and written into another stack in place.
IN_PLACE = """HloModule jit_h

%cut (w: f32[6,10,16], i: s32[]) -> f32[1,10,16] {
  %w = f32[6,10,16]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  %nil = s32[] constant(0)
  ROOT %part = f32[1,10,16]{2,1,0} dynamic-slice(%w, %i, %nil, %nil), dynamic_slice_sizes={1,10,16}
}

%move (to: f32[6,10,16], from: f32[6,10,16], i.1: s32[]) -> f32[6,10,16] {
  %to = f32[6,10,16]{2,1,0} parameter(0)
  %from = f32[6,10,16]{2,1,0} parameter(1)
  %i.1 = s32[]{:T(128)S(6)} parameter(2)
  %inner = f32[1,10,16]{2,1,0} fusion(%from, %i.1), kind=kLoop, calls=%cut
  %nil.1 = s32[] constant(0)
  ROOT %new = f32[6,10,16]{2,1,0} dynamic-update-slice(%to, %inner, %i.1, %nil.1, %nil.1)
}

ENTRY %main (a: f32[6,10,16], b: f32[6,10,16], n: s32[]) -> f32[6,10,16] {
  %a = f32[6,10,16]{2,1,0} parameter(0)
  %b = f32[6,10,16]{2,1,0} parameter(1)
  %n = s32[]{:T(128)S(6)} parameter(2)
  %moved = f32[6,10,16]{2,1,0} fusion(%a, %b, %n), kind=kLoop, calls=%move
  %ahead = (f32[6,10,16]{2,1,0:S(1)}, f32[6,10,16]{2,1,0}, u32[]{:S(2)}) copy-start(%moved)
  %held = f32[6,10,16]{2,1,0:S(1)} copy-done(%ahead)
  ROOT %sum = f32[6,10,16]{2,1,0} add(%held, %moved)
}
"""


def test_memory_traffic_of_an_update_in_place():
    part, whole = 10 * 16 * 4, 6 * 10 * 16 * 4
    # Read and written a part; fetched onto the chip once; one operand of the sum read, its result written.
    assert hbm_traffic(parse(IN_PLACE)) == 2 * part + whole + 2 * whole


@pytest.mark.parametrize(
    ('groups', 'first'),
    [
        ('{{0,4},{1,5},{2,6},{3,7}}', (0, 4)),
        ('[2,4]<=[8]', (0, 1, 2, 3)),
        ('[4,2]<=[2,4]T(1,0)', (0, 4)),
        ('[2,4]<=[2,2,2]T(1,0,2)', (0, 1, 4, 5)),
        ("mesh['x'=2,'y'=4] {'y'}", (0, 1, 2, 3)),
        ("mesh['x'=2,'y'=4] {'x'}", (0, 4)),
        ("mesh['x'=2,'y'=4] {'y':(2)2}", (0, 1)),
        ("mesh['x'=2,'y'=4] {'y':(1)2}", (0, 2)),
        ('{}', ()),
    ],
)
def test_every_spelling_of_groups(groups, first):
    text = f"""ENTRY main (x: s8[6]) -> s8[6] {{
  x = s8[6]{{0}} parameter(0)
  ROOT r = s8[6]{{0}} all-reduce(x), channel_id=1, replica_groups={groups}, to_apply=add
}}
"""
    (found,) = collectives(parse(text))
    assert (found.size, found.group) == (6, first)


def test_what_hosts_carry_between_slices():
    attributes = (
        'channel_id=2, is_host_transfer=true, frontend_attributes={_xla_host_transfer_rendezvous="all-reduce.1_0",'
        '_xla_megascale_reduce_operation="SUM",_xla_megascale_transfer_type="ALL_REDUCE"}'
    )
    text = f"""ENTRY main (x: bf16[256,8]) -> token[] {{
  %x = bf16[256,8]{{1,0}} parameter(0)
  %after-all = token[] after-all()
  %send = (bf16[256,8]{{1,0}}, u32[], token[]) send(%x, %after-all), {attributes}
  %recv = (bf16[256,8]{{1,0}}, u32[], token[]) recv(%after-all), {attributes}
  ROOT %done = token[] send-done(%send), channel_id=2
}}
"""
    assert collectives(parse(text)) == [Collective('all-reduce', 256 * 8 * 2, (), 1, between_slices=True)]


# Sums over an axis in loops whose lengths are written here, compiled for 8 devices.
COMPILE = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from ccl_jax.studies import hlo

mesh = jax.make_mesh((2, 4), ('a', 'b'), axis_types=(AxisType.Auto,) * 2)

def step(x):
    def outer(x, _):
        def inner(x, _):
            return jnp.sin(jax.lax.psum(x, 'b')), None
        x, _ = jax.lax.scan(inner, x, None, length=3)
        gathered = jax.lax.all_gather(x, 'a', tiled=True)
        return jnp.cos(gathered[: x.shape[0]]), None
    return jax.lax.scan(outer, x, None, length=7)[0]

f = jax.jit(jax.shard_map(step, mesh=mesh, in_specs=P(('a', 'b')), out_specs=P(('a', 'b')), check_vma=False))
text = f.lower(jax.ShapeDtypeStruct((80, 6), jnp.float32)).compile().as_text()
found = hlo.collectives(hlo.parse(text))
print(json.dumps([[c.kind, c.size, list(c.group), c.count] for c in found]))
"""


def test_collectives_of_a_compiled_scan():
    environment = os.environ | {
        'JAX_PLATFORMS': 'cpu',
        'XLA_FLAGS': f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count=8',
    }
    done = subprocess.run(
        [sys.executable, '-c', COMPILE], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    found = sorted(json.loads(done.stdout))
    # Rows of 10 x 6 numbers a device; along b the devices are neighbours in the mesh, along a four apart.
    assert found == [['all-gather', 2 * 10 * 6 * 4, [0, 4], 7], ['all-reduce', 10 * 6 * 4, [0, 1, 2, 3], 21]]
