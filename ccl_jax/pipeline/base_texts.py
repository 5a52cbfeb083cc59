"""The texts of language modelling: where they come from, and what is kept out of them.

In this order, as far as `base.texts` reaches:
    training    the training documents, where the source lets them serve as texts
    terms       the terms of the release, category by category (`base.terms`)
    corpora     the files and folders of `base.corpora`
    source      the source's own unlabelled texts

A text that occurred before is dropped. So is one that shares eight successive words with an evaluation
document (every split but `train`); training documents may, since every arm trains on them, and made-up texts
do, since they come from the same templates. Of the others every sentence that holds a code or a term of a
held-out code is dropped (`HeldOutTerms`), and with the last sentence the text. What was dropped is counted.

Limits: terms are found as they are worded, not inflected ("hernias") or translated, and not across the end of a
sentence.
"""

import hashlib
import itertools
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ccl_jax.config import Config
from ccl_jax.data.windows import sentence_ends
from ccl_jax.errors import UserError
from ccl_jax.expansion.category_texts import category_texts
from ccl_jax.expansion.held_out_terms import HeldOutTerms
from ccl_jax.expansion.leakage import Leakage
from ccl_jax.icd.folding import fold
from ccl_jax.icd.release import Release
from ccl_jax.pipeline.sources import StoredDocuments, with_progress
from ccl_jax.pipeline.workdir import say
from ccl_jax.records import Document, write_jsonl
from ccl_jax.sources.corpora import read_corpus
from ccl_jax.sources.corpus import Corpus
from ccl_jax.sources.report import RejectionLog, SourceReport

TRAINING, TERMS, SOURCE = 'training documents', 'terms of the release', 'texts of the source'


def write_base_texts(
    path: Path,
    config: Config,
    release: Release,
    corpus: Corpus,
    splits: Mapping[str, StoredDocuments],
    held_out: Collection[str],
    log: RejectionLog | None = None,
) -> dict[str, Any]:
    """Writes the texts as JSON Lines of `text_id` and `text`; returns what was kept and dropped, by origin.

    Args:
        splits: the documents of the source, `train` among them.
        held_out: the codes whose terms are kept out.

    Raises:
        UserError: one of `base.corpora` is unusable, or all of an endless source is asked for.
    """
    if not config.base.texts and corpus.synthetic:
        raise UserError(
            f'base.texts is 0, for all, and the source {config.sources.name} writes as many as are asked for; '
            'set a number'
        )
    say('choosing the texts of language modelling ...')
    training = splits['train']
    carried = sorted({code for document in training for code in document.codes})
    taught = [*(corpus.code_space or release.billable_codes()), *carried]
    terms = HeldOutTerms(release, held_out, taught, forms=config.expansion.forms, own_terms=corpus.own_terms)
    evaluation = (document for name, documents in splits.items() if name != 'train' for document in documents)
    sieve = Sieve(terms, Leakage(evaluation))
    unchecked = {TRAINING, *([SOURCE] if corpus.synthetic else [])}
    texts = (
        {'text_id': document.doc_id, 'text': text}
        for document in with_progress(_all_texts(config, release, corpus, training, held_out, log), 'texts')
        if (text := sieve.keep(document, may_leak=document.source in unchecked)) is not None
    )
    write_jsonl(path, itertools.islice(texts, config.base.texts or None))
    for line in sieve.lines():
        say(line)
    return {'held_out_terms': len(terms), 'origins': sieve.to_json()}


def _all_texts(
    config: Config,
    release: Release,
    corpus: Corpus,
    training: Iterable[Document],
    held_out: Collection[str],
    log: RejectionLog | None,
) -> Iterator[Document]:
    """Yields the texts as documents whose `source` is their origin; reads no further than asked."""
    if corpus.texts_of_training:
        for document in training:
            yield Document(document.doc_id, document.text, source=TRAINING)
    if config.base.terms:
        wanted = (code for code in release.billable_codes() if code not in held_out)
        for text_id, text in category_texts(release, wanted):
            yield Document(text_id, text, source=TERMS)
    for path in config.base.corpora:
        report = SourceReport(path, 'texts', log)
        for document in read_corpus(path, report=report):
            yield Document(f'{path}:{document.doc_id}', document.text, source=path)
    for text_id, text in corpus.texts(config.base.texts):
        yield Document(text_id, text, source=SOURCE)


class Sieve:
    """Decides what of a text is kept, and counts by origin what is not."""

    def __init__(self, terms: HeldOutTerms, leakage: Leakage):
        self._terms = terms
        self._leakage = leakage
        self._seen: set[bytes] = set()
        self._counts: dict[str, Counter[str]] = defaultdict(Counter)

    def keep(self, document: Document, *, may_leak: bool) -> str | None:
        """Returns the text without its sentences with held-out terms, None where nothing of it is kept.

        Args:
            may_leak: whether it may share words with an evaluation document.
        """
        counts, text = self._counts[document.source], document.text
        counts['texts'] += 1
        key = hashlib.blake2b(text.encode(), digest_size=16).digest()
        if key in self._seen:
            counts['dropped: occurred before'] += 1
            return None
        self._seen.add(key)
        if not may_leak and self._leakage.shares([text])[0]:
            counts['dropped: shares a run of words with an evaluation document'] += 1
            return None
        text = self._without_held_out(text, counts)
        if not text.strip():
            counts['dropped: every sentence holds a held-out term'] += 1
            return None
        counts['kept'] += 1
        return text

    def _without_held_out(self, text: str, counts: Counter[str]) -> str:
        ends = sentence_ends(text)
        kept = []
        for begin, end in zip([0, *ends], ends, strict=False):
            words = fold(text[begin:end]).split()
            held_out = self._terms.in_words(words)
            counts['sentences dropped' if held_out else 'sentences kept'] += 1
            counts['words dropped' if held_out else 'words kept'] += len(words)
            if not held_out:
                kept.append(text[begin:end])
        # Untouched texts keep the white space around them.
        return text if len(kept) == len(ends) else ''.join(kept).strip()

    def to_json(self) -> dict[str, dict[str, int]]:
        return {origin: dict(sorted(counts.items())) for origin, counts in self._counts.items()}

    def lines(self) -> Iterator[str]:
        """Yields one line for each origin, to be printed."""
        for origin, counts in self._counts.items():
            sentences = counts['sentences kept'] + counts['sentences dropped']
            dropped = ''.join(
                f'; {count:,} {name}' for name, count in counts.items() if name.startswith('dropped') and count
            )
            yield (
                f'{origin}: {counts["kept"]:,} of {counts["texts"]:,} texts kept, {counts["words kept"]:,} words'
                f'{dropped}; {counts["sentences dropped"]:,} of {sentences:,} sentences dropped, with held-out terms'
            )
