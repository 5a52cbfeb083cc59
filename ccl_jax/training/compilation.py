"""Everything is compiled before the first step, and kept on disk for the next start."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import platformdirs
from jax.sharding import Mesh

from ccl_jax.errors import UserError
from ccl_jax.training.console import say
from ccl_jax.training.step import Batch, abstract_batch

# Names for `use_compilation_cache`.
USER_CACHE, NO_CACHE = 'user', 'off'

Shape = tuple[int, int]


def use_compilation_cache(folder: str) -> None:
    """Keeps compiled programs in `folder`, so that a resumed run starts sooner; to be called before anything compiles.

    A cache that jax has already, e.g. from JAX_COMPILATION_CACHE_DIR, stays.

    Args:
        folder: a path (of several hosts: one that they share); 'user' for the user's cache directory; 'off' for none.

    Raises:
        UserError: the folder cannot be made.
    """
    existing = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if folder == NO_CACHE or existing is not None:
        return
    path = Path(platformdirs.user_cache_dir('ccl_jax')) / 'compiled' if folder == USER_CACHE else Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        # Without the user's own there is no cache; one that was asked for must be there.
        if folder == USER_CACHE:
            return
        raise UserError(
            f'the compilation cache {path} cannot be made ({error.strerror}); '
            f'set train.compilation_cache to another folder, or to {NO_CACHE}'
        ) from None
    jax.config.update('jax_compilation_cache_dir', str(path.absolute()))


def compile_shapes(function: Any, arguments: Sequence[Any], shapes: Sequence[Shape], mesh: Mesh, what: str) -> Callable:
    """Compiles a jitted function of (*arguments, batch) for every shape of batches, with a progress line each.

    Args:
        arguments: abstract or concrete.
        shapes: (rows, length) of the batches.
        what: names the function in the progress lines.

    Returns:
        A function of the same arguments. It raises ValueError for a batch of a shape that was not
        compiled, so that no compilation ever falls into the run.
    """
    compiled: dict[Shape, Any] = {}
    for number, (rows, length) in enumerate(shapes, start=1):
        say(f'compiling {what} for {rows} rows of {length} tokens ({number} of {len(shapes)}) ...', end=' ')
        began = time.perf_counter()
        compiled[rows, length] = function.lower(*arguments, abstract_batch(rows, length, mesh)).compile()
        say(f'{time.perf_counter() - began:.1f} s')

    def call(*arguments_and_batch: Any) -> Any:
        batch: Batch = arguments_and_batch[-1]
        shape = batch['tokens'].shape
        if shape not in compiled:
            known = ', '.join(f'{rows} x {length}' for rows, length in compiled)
            raise ValueError(f'a batch has shape {shape[0]} x {shape[1]}; {what} was compiled for {known}')
        return compiled[shape](*arguments_and_batch)

    return call
