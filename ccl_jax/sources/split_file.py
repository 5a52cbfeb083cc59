"""Splits that others published, as feather files.

Edin et al., "Automated medical coding on MIMIC-III and MIMIC-IV", SIGIR 2023;
github.com/JoakimEdin/medical-coding-reproducibility, `files/data/*/*_split*.feather`:
columns `_id` (the hadm_id, int64) and `split` (train, val, test).
"""

from pathlib import Path

from ccl_jax.errors import UserError

# The name of a split in the files -> here.
_SPLITS = {'train': 'train', 'val': 'dev', 'dev': 'dev', 'test': 'test'}
_MEND = 'give a feather file with the columns _id and split (train, val, test)'


def read_split_file(path: str | Path) -> dict[str, str]:
    """Returns id -> train, dev or test; ids without a split are not in it.

    Ids are strings here, whether the file has them as numbers or as strings.

    Raises:
        UserError: the file cannot be read, lacks a column, names another split,
            or puts an id into two; or pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.feather
    except ImportError:
        raise UserError('a split file needs pyarrow; pip install pyarrow') from None
    try:
        table = pyarrow.feather.read_table(str(path), columns=['_id', 'split'])
        # A damaged file can hold offsets that lead outside of it.
        table.validate(full=True)
        ids, names = (table.column(name).to_pylist() for name in ('_id', 'split'))
    except FileNotFoundError:
        raise UserError(f'cannot read {path}: no such file; check the path') from None
    except (pyarrow.ArrowException, OSError, ValueError, KeyError, NotImplementedError):
        raise UserError(f'{path} is not a usable split file; {_MEND}') from None
    splits: dict[str, str] = {}
    for row, (value, name) in enumerate(zip(ids, names, strict=True), start=1):
        if name is None:
            continue
        record_id = _identifier(value)
        if not record_id or not isinstance(name, str) or name not in _SPLITS:
            raise UserError(f'{path} row {row} has an unusable {"split" if record_id else "_id"}; {_MEND}')
        if splits.setdefault(record_id, _SPLITS[name]) != _SPLITS[name]:
            raise UserError(f'{path} row {row} puts an _id into a second split; keep one row of each')
    return splits


def _identifier(value: object) -> str:
    # Whole numbers become floats in a column where some are missing.
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() if isinstance(value, int | str) and not isinstance(value, bool) else ''
