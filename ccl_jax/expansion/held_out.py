"""The held-out codes: stratum S2, which no span may carry."""

import hashlib
import json
from collections.abc import Collection, Iterable
from pathlib import Path

from ccl_jax.errors import UserError
from ccl_jax.icd.codes import normalize_code


def draw_held_out(codes: Iterable[str], carried: Collection[str], share: float, seed: int) -> frozenset[str]:
    """Returns the codes that the seed holds out: of those outside `carried`, the given share on average.

    Whether a code is drawn is a function of the code and the seed alone, so that runs over other
    documents or another scope agree on it.

    Args:
        carried: the codes of the training documents.
    """
    return frozenset(code for code in codes if code not in carried and _drawn(code, share, seed))


def read_held_out(path: str | Path) -> frozenset[str]:
    """Reads the codes of a file that `held_out_to_json` made. Raises UserError if it is none."""
    try:
        codes = json.loads(Path(path).read_bytes())['codes']
        return frozenset(map(normalize_code, codes))
    except OSError as error:
        raise UserError(f'cannot read {path}: {error.strerror}; check expansion.held_out_file') from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f'{path} is no list of held-out codes; give the held_out.json of "ccl-jax expand"') from None


def held_out_to_json(held_out: Collection[str], share: float, seed: int) -> str:
    return json.dumps({'share': share, 'seed': seed, 'codes': sorted(held_out)}, indent=1) + '\n'


def _drawn(code: str, share: float, seed: int) -> bool:
    digest = hashlib.sha256(f'{seed}:held out:{code}'.encode()).digest()
    return int.from_bytes(digest[:8]) < share * 2**64
