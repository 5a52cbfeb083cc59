"""The compiled steps of generation, on a cache and the logits of the next token of each row.

Cache and logits lie as the model does: rows over replica x fsdp, key/value heads and vocabulary over tensor,
where these divide them. Both are donated where their shapes stay, so a step changes them in place.
What the steps are told about rows comes from the host, which keeps account of them.
"""

import functools
import math
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ccl_jax.decoding.sampling import Sampling, choose
from ccl_jax.model.decoder import SLOT_AXES, Cache, Decoder
from ccl_jax.model.sharding import BATCH_AXES

# In the place of a token, where a row has none.
UNUSED = -1


class State(NamedTuple):
    """What stays on the device.

    Attributes:
        cache: of R rows and S slots, see `Decoder`.
        logits: float32 [R, V], of the next token.
    """

    cache: Cache
    logits: jax.Array


class Rows(NamedTuple):
    """What the host knows of the rows, all [R].

    Attributes:
        prompts: int32, the number of the prompt.
        positions: int32, that of the next token.
        written: int32, tokens of the answer so far.
        limits: int32, tokens of the answer at most.
        active: bool, whether the answer goes on.
    """

    prompts: np.ndarray
    positions: np.ndarray
    written: np.ndarray
    limits: np.ndarray
    active: np.ndarray


def mesh_of(params: nnx.State) -> Mesh | None:
    """The mesh on which parameters lie, if any."""
    sharding = jax.tree.leaves(params)[0].sharding
    # An array that exists lies on a mesh of devices.
    return cast(Mesh, sharding.mesh) if isinstance(sharding, NamedSharding) else None


def row_devices(mesh: Mesh | None) -> int:
    """How many parts rows are divided into."""
    return 1 if mesh is None else math.prod(mesh.shape[axis] for axis in BATCH_AXES)


@functools.partial(jax.jit, static_argnames=('graphdef', 'rows', 'slots', 'mesh'))
def empty(params: nnx.State, *, graphdef, rows: int, slots: int, mesh: Mesh | None) -> State:
    """Returns the state of `rows` rows without a prompt."""
    decoder: Decoder = nnx.merge(graphdef, params)
    logits = jnp.zeros((rows, decoder.architecture.vocab_size), jnp.float32)
    return _placed(State(decoder.empty_cache(rows, slots), logits), mesh)


@functools.partial(jax.jit, static_argnames=('graphdef', 'mesh'))
def prefill(params: nnx.State, tokens: jax.Array, lengths: jax.Array, *, graphdef, mesh: Mesh | None) -> State:
    """Returns the state of a few rows after their prompts.

    Args:
        tokens: [P, T] prompts, padded on the right.
        lengths: [P], at least 1.
    """
    decoder: Decoder = nnx.merge(graphdef, params)
    if mesh is not None:
        tokens = jax.lax.with_sharding_constraint(tokens, NamedSharding(mesh, PartitionSpec(BATCH_AXES)))
    hidden, cache = decoder.prefill(tokens)
    last = jnp.take_along_axis(hidden, lengths[:, None, None] - 1, axis=1)[:, 0]
    return _placed(State(cache, decoder.logits(last)), mesh)


@functools.partial(jax.jit, static_argnames='mesh', donate_argnums=0)
def insert(state: State, prompts: State, rows: jax.Array, *, mesh: Mesh | None) -> State:
    """Puts prompts [P, T] into rows [P]; a row number of R or more drops the prompt, which is padding."""
    if mesh is not None:
        # Few and whole on every device, so that each takes its own rows of them.
        whole = _shardings(prompts, mesh, divide_rows=False)
        prompts = State(*jax.lax.with_sharding_constraint((*prompts,), whole))
    cache = {
        name: tuple(
            whole.at[(slice(None), rows, *_slots(name, part.shape[SLOT_AXES[name]])[2:])].set(part, mode='drop')
            for whole, part in zip(stacks, prompts.cache[name], strict=True)
        )
        for name, stacks in state.cache.items()
    }
    return _placed(State(cache, state.logits.at[rows].set(prompts.logits, mode='drop')), mesh)


@functools.partial(jax.jit, static_argnames=('slots', 'mesh'))
def shrink(state: State, *, slots: int, mesh: Mesh | None) -> State:
    """Keeps the first slots only."""
    cache = {name: tuple(stack[_slots(name, slots)] for stack in stacks) for name, stacks in state.cache.items()}
    return _placed(State(cache, state.logits), mesh)


def _slots(name: str, slots: int) -> tuple[slice, ...]:
    """The index of the first slots of a stack of keys or values."""
    return (slice(None),) * SLOT_AXES[name] + (slice(slots),)


@functools.partial(jax.jit, static_argnames=('graphdef', 'steps', 'mesh'), donate_argnums=1)
def decode(
    params: nnx.State,
    state: State,
    rows: Rows,
    sampling: Sampling | None,
    end_ids: jax.Array,
    idle: jax.Array,
    *,
    graphdef,
    steps: int,
    mesh: Mesh | None,
) -> tuple[State, jax.Array, jax.Array]:
    """Writes up to `steps` tokens a row; returns the state, the tokens and their log-probabilities, both [R, steps].

    Args:
        end_ids: [E], the tokens that end an answer.
        idle: ends early when at most so many rows are active.

    Returns:
        Of a row that has ended, and where the loop ended early, tokens are `UNUSED`. All processes get all rows.
    """
    decoder: Decoder = nnx.merge(graphdef, params)

    def unfinished(carry):
        step, _, rows, *_ = carry
        return (step < steps) & (rows.active.sum() > idle)

    def body(carry):
        step, state, rows, tokens, logprobs = carry
        token, logprob = choose(state.logits, sampling, rows.prompts, rows.written)
        tokens = tokens.at[:, step].set(jnp.where(rows.active, token, UNUSED))
        logprobs = logprobs.at[:, step].set(logprob)
        state = _advanced(decoder, state, token, rows.positions, mesh)
        written = rows.written + 1
        active = rows.active & ~jnp.isin(token, end_ids) & (written < rows.limits)
        rows = rows._replace(positions=rows.positions + 1, written=written, active=active)
        return step + 1, state, rows, tokens, logprobs

    shape = (len(rows.active), steps)
    carry = (0, state, rows, jnp.full(shape, UNUSED, jnp.int32), jnp.zeros(shape, jnp.float32))
    _, state, _, tokens, logprobs = jax.lax.while_loop(unfinished, body, carry)
    tokens, logprobs = _whole((tokens, logprobs), mesh)
    return state, tokens, logprobs


@functools.partial(jax.jit, static_argnames=('graphdef', 'mesh'), donate_argnums=1)
def advance(
    params: nnx.State, state: State, tokens: jax.Array, positions: jax.Array, *, graphdef, mesh: Mesh | None
) -> State:
    """Runs one more token a row, [R], at its position, [R]."""
    return _advanced(nnx.merge(graphdef, params), state, tokens, positions, mesh)


@functools.partial(jax.jit, static_argnames='mesh')
def choose_allowed(
    logits: jax.Array,
    rows: Rows,
    sampling: Sampling | None,
    allowed: jax.Array,
    *,
    mesh: Mesh | None,
) -> tuple[jax.Array, jax.Array]:
    """Returns `choose` under `allowed` for all processes."""
    return _whole(choose(logits, sampling, rows.prompts, rows.written, allowed), mesh)


def _advanced(decoder: Decoder, state: State, tokens: jax.Array, positions: jax.Array, mesh: Mesh | None) -> State:
    hidden, cache = decoder.decode(tokens, positions, state.cache)
    return _placed(State(cache, decoder.logits(hidden)), mesh)


def _placed(state: State, mesh: Mesh | None) -> State:
    return state if mesh is None else State(*jax.lax.with_sharding_constraint((*state,), _shardings(state, mesh)))


def _shardings(state: State, mesh: Mesh, *, divide_rows: bool = True) -> tuple[Any, NamedSharding]:
    _, rows, heads, *_ = state.cache['key'][0].shape
    batch = BATCH_AXES if divide_rows and rows % row_devices(mesh) == 0 else None
    heads_axis, vocab_axis = (
        'tensor' if n % mesh.shape['tensor'] == 0 else None for n in (heads, state.logits.shape[1])
    )
    cache = NamedSharding(mesh, PartitionSpec(None, batch, heads_axis))
    return jax.tree.map(lambda _: cache, state.cache), NamedSharding(mesh, PartitionSpec(batch, vocab_axis))


def _whole(results: tuple[jax.Array, jax.Array], mesh: Mesh | None) -> tuple[jax.Array, jax.Array]:
    return results if mesh is None else jax.lax.with_sharding_constraint(results, NamedSharding(mesh, PartitionSpec()))
