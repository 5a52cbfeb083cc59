"""Writing whole files."""

from pathlib import Path

from ccl_jax.errors import UserError


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of the text in UTF-8."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a whole file at once, making its folder; an interrupted write leaves the former file.

    Raises:
        UserError: the folder or file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + '.partial')
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        raise UserError(f'cannot write {path}: {error.strerror}; choose a folder that can be written') from None
