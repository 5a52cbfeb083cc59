"""The storage under the checkpoints: its paths, how Orbax writes to it, and what it refuses."""

import logging
import os
import re
from pathlib import Path

from etils import epath
from orbax.checkpoint import v1 as ocp


def absolute(directory: str | os.PathLike[str]) -> epath.Path:
    """The path as `epath` has it; a local one is made absolute, which Orbax asks for."""
    path = epath.Path(directory)
    return path if '://' in os.fspath(path) else epath.Path(Path(path).absolute())


def refusal_of(error: Exception) -> str | None:
    """Returns what the storage refused, or None for an error of another kind."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    # TensorStore raises ValueError with the status first, and the system's error number where it has one.
    status = re.match(r'([A-Z_]{2,}): ', str(error))
    if status is None:
        return None
    number = re.search(r"os_error_code='(\d+)'", str(error))
    return os.strerror(int(number.group(1))) if number else status.group(1)


def uncompressed() -> ocp.Context:
    """How Orbax writes: zstd takes several times as long, and float32 weights shrink by 8 %."""
    context = ocp.Context()
    context.array.saving.use_compression = False
    return context


def quieten_orbax() -> None:
    """Keeps Orbax from printing the traceback of what it raises from `result` as well, perhaps after the run's end."""
    logging.getLogger('absl').addFilter(_is_no_failed_save)


def _is_no_failed_save(record: logging.LogRecord) -> bool:
    return not (record.levelno >= logging.ERROR and '_SignalingThread' in str(record.msg))
