"""Writing whole files."""

from pathlib import Path

from ccl_jax.errors import UserError


def write_text(path: Path, text: str) -> None:
    """Writes a whole file at once, making its folder; an interrupted write leaves the former file.

    Raises:
        UserError: the folder or file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + '.partial')
        partial.write_text(text, encoding='utf-8')
        partial.replace(path)
    except OSError as error:
        raise UserError(f'cannot write {path}: {error.strerror}; choose a folder that can be written') from None
