"""One corpus from its settings: its documents as a stream, and what else the source brings."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from ccl_jax.errors import UserError
from ccl_jax.icd.codes import ICD9CM, ICD10CM, SYSTEMS
from ccl_jax.icd.matching import TermMatcher
from ccl_jax.icd.release import Release
from ccl_jax.records import Document, Span
from ccl_jax.sources import codiesp, jsonl, mdace, mimic, texts
from ccl_jax.sources.report import RejectionLog, SourceReport
from ccl_jax.sources.subset import set_aside, take_training_documents
from ccl_jax.sources.synthetic_notes import NoteSettings, SyntheticNotes

SPLITS = ('train', 'dev', 'test')


@dataclasses.dataclass(frozen=True)
class CodiEspSettings:
    """CodiEsp v4.

    Attributes:
        path: the folder that holds `train/` and `dev/`.
        language: 'es', or 'en' for the machine translation.
        procedures: also read the procedures (ICD-10-PCS).
        find_evidence: in English, which has no annotated evidence, take the places where a
            term of the code or of a code above it occurs; marked as silver.
    """

    path: str = ''
    language: str = 'es'
    procedures: bool = False
    find_evidence: bool = True


@dataclasses.dataclass(frozen=True)
class MdaceSettings:
    """MDACE; see `mdace.read_mdace`.

    Attributes:
        path: the folder that holds `data/` and `splits/`.
        noteevents: NOTEEVENTS.csv of MIMIC-III, gzipped or not.
        grouping: a document is a 'note' or an 'admission'.
    """

    path: str = ''
    noteevents: str = ''
    setting: str = 'Inpatient'
    icd: str = 'ICD-10'
    systems: tuple[str, ...] = (ICD10CM,)
    split_files: str = 'ev'
    grouping: str = 'note'


@dataclasses.dataclass(frozen=True)
class MimicSettings:
    """MIMIC-IV; see `mimic.read_mimic4`.

    Attributes:
        path: the folder of the tables.
        split_file: feather of columns `_id`, `split` (Edin 2023); '' splits the subjects
            here, by iterative stratification with `ratios` and `seed`.
        grouping: a document is a 'note' or an 'admission'.
        systems: the code systems kept.
        ratios: shares of train, dev and test.
    """

    path: str = ''
    split_file: str = ''
    grouping: str = 'admission'
    systems: tuple[str, ...] = (ICD10CM,)
    ratios: tuple[float, ...] = (0.8, 0.1, 0.1)
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.ratios) != len(SPLITS) or min(self.ratios) < 0 or not self.ratios[0] > 0:
            raise UserError(f'ratios is {self.ratios}; give the shares of train, dev and test, that of train above 0')


@dataclasses.dataclass(frozen=True)
class MimicIIISettings(MimicSettings):
    """MIMIC-III, whose codes are ICD-9; `categories` are those of the notes that are read."""

    systems: tuple[str, ...] = (ICD9CM,)
    categories: tuple[str, ...] = ('Discharge summary',)


@dataclasses.dataclass(frozen=True)
class TextSettings:
    """A corpus of unlabelled texts in its published layout (or, `text_folder`, any folder of .txt files)."""

    path: str = ''


@dataclasses.dataclass(frozen=True)
class JsonlSettings:
    """A user's own files in the JSONL schema of the README.

    Attributes:
        train, dev, test: files of documents; '' for none.
        spans: a file of spans, or ''.
        on_bad_record: 'refuse' stops at the first bad record; 'skip' lists bad
            records in `rejected.jsonl` and goes on.
    """

    train: str = ''
    dev: str = ''
    test: str = ''
    spans: str = ''
    on_bad_record: str = 'refuse'

    def __post_init__(self) -> None:
        if self.on_bad_record not in ('refuse', 'skip'):
            raise UserError(f'on_bad_record is "{self.on_bad_record}"; it must be refuse or skip')


@dataclasses.dataclass(frozen=True)
class SourceSettings:
    """Which source is read, and how each would be.

    Attributes:
        max_train_documents: training documents at most, chosen by `train_documents_seed`; 0 for all. The
            choice of a smaller number lies within that of a larger one. See `take_training_documents`.
        tune_share: about this share of the training documents, chosen by the same seed, becomes the split
            `tune`, before any are left out: hyper-parameters are chosen on it, and dev stays unseen.
    """

    name: str = 'synthetic_notes'
    max_train_documents: int = 0
    train_documents_seed: int = 0
    tune_share: float = 0.0
    synthetic_notes: NoteSettings = dataclasses.field(default_factory=NoteSettings)
    codiesp: CodiEspSettings = dataclasses.field(default_factory=CodiEspSettings)
    mdace: MdaceSettings = dataclasses.field(default_factory=MdaceSettings)
    mimic_iii: MimicIIISettings = dataclasses.field(default_factory=MimicIIISettings)
    mimic_iv: MimicSettings = dataclasses.field(default_factory=MimicSettings)
    jsonl: JsonlSettings = dataclasses.field(default_factory=JsonlSettings)
    aci_bench: TextSettings = dataclasses.field(default_factory=TextSettings)
    mts_dialog: TextSettings = dataclasses.field(default_factory=TextSettings)
    text_folder: TextSettings = dataclasses.field(default_factory=TextSettings)

    def __post_init__(self) -> None:
        if self.name not in SOURCES:
            raise UserError(f'name is "{self.name}"; it must be one of {", ".join(SOURCES)}')
        if self.max_train_documents < 0:
            raise UserError(f'max_train_documents is {self.max_train_documents}; it must be at least 0, for all')
        if not 0 <= self.tune_share < 1:
            raise UserError(f'tune_share is {self.tune_share}; it must be at least 0, for none, and less than 1')
        for section in ('mdace', 'mimic_iii', 'mimic_iv'):
            unknown = [system for system in getattr(self, section).systems if system not in SYSTEMS]
            if unknown:
                raise UserError(f'{section}.systems has "{unknown[0]}"; it must be one of {", ".join(SYSTEMS)}')


def _no_texts(count: int) -> Iterator[tuple[str, str]]:
    return iter(())


@dataclasses.dataclass(frozen=True)
class Corpus:
    """What a source brings. Everything is read when it is iterated, and counted in `reports` then.

    Attributes:
        documents: call it for one pass over the documents of all splits, `Document.split` set.
        reports: one per file set, filled by reading.
        labelled: whether the documents have codes; where not they are texts for language modelling alone.
        spans: spans of the source's own, beside those that expansion makes.
        texts: of a number, at least so many (id, text) without labels, for language modelling, or all there are.
        texts_of_training: whether training documents serve as such texts too, first.
        code_space: the codes that training may learn, where the source defines them.
        held_out: codes that the source keeps out of training on purpose, where it does.
        own_terms: code -> wordings of it in the documents that no release has.
        synthetic: whether the documents are made up; shown wherever they are.
    """

    documents: Callable[[], Iterator[Document]]
    reports: list[SourceReport]
    labelled: bool = True
    spans: Callable[[], Iterator[Span]] = lambda: iter(())
    texts: Callable[[int], Iterator[tuple[str, str]]] = _no_texts
    texts_of_training: bool = True
    code_space: tuple[str, ...] | None = None
    held_out: frozenset[str] | None = None
    own_terms: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    synthetic: bool = False


def open_corpus(settings: SourceSettings, release: Release, log: RejectionLog | None = None) -> Corpus:
    """Opens the source that `settings` name; nothing is read before the corpus is iterated.

    Args:
        release: for the terms by which evidence is found, and for synthetic notes.
        log: where refused records are written.

    Raises:
        UserError: also while iterating: a file is missing or unusable.
    """
    source, own = SOURCES[settings.name], getattr(settings, settings.name)
    if source.path and not own.path:
        raise UserError(f'sources.{settings.name}.path is empty; set it to {source.path}')
    corpus = source.open(own, release, log)
    if not settings.max_train_documents and not settings.tune_share:
        return corpus
    report = next(report for report in corpus.reports if report.split in ('train', ''))

    def documents() -> Iterator[Document]:
        seed, most = settings.train_documents_seed, settings.max_train_documents
        found = corpus.documents()
        if settings.tune_share:
            found = set_aside(found, settings.tune_share, seed, report)
        return take_training_documents(found, most, seed, report) if most else found

    return dataclasses.replace(corpus, documents=documents)


def _synthetic(settings: NoteSettings, release: Release, log: RejectionLog | None) -> Corpus:
    notes = SyntheticNotes(settings, release)
    reports = [SourceReport('synthetic_notes', split, log) for split in SPLITS]

    def documents() -> Iterator[Document]:
        for report in reports:
            for document in notes.documents(report.split):
                report.add(document)
                yield document

    return Corpus(
        documents=documents,
        reports=reports,
        texts=notes.texts,
        texts_of_training=False,
        code_space=tuple(notes.codes('S0') + notes.codes('S1')),
        held_out=frozenset(notes.codes('S2')),
        own_terms=notes.variants,
        synthetic=True,
    )


def _codiesp(settings: CodiEspSettings, release: Release, log: RejectionLog | None) -> Corpus:
    matcher = TermMatcher(release) if settings.language == 'en' and settings.find_evidence else None
    reports = [SourceReport('codiesp', split, log) for split in ('train', 'dev')]

    def documents() -> Iterator[Document]:
        for report in reports:
            yield from codiesp.read_codiesp(
                settings.path,
                report.split,
                settings.language,
                report=report,
                procedures=settings.procedures,
                matcher=matcher,
            )

    def background(count: int) -> Iterator[tuple[str, str]]:
        report = SourceReport('codiesp', 'background', log)
        reports.append(report)
        for document in codiesp.read_codiesp(settings.path, 'background', settings.language, report=report):
            yield document.doc_id, document.text

    return Corpus(documents, reports, texts=background)


def _mdace(settings: MdaceSettings, release: Release, log: RejectionLog | None) -> Corpus:
    report = SourceReport('mdace', log=log)
    keywords = {name: value for name, value in vars(settings).items() if name not in ('path', 'noteevents')}
    if not settings.noteevents:
        raise UserError('sources.mdace.noteevents is empty; set it to NOTEEVENTS.csv of MIMIC-III, gzipped or not')
    return Corpus(lambda: mdace.read_mdace(settings.path, settings.noteevents, **keywords, report=report), [report])


def _mimic_iii(settings: MimicIIISettings, release: Release, log: RejectionLog | None) -> Corpus:
    report = SourceReport('mimic_iii', log=log)
    keywords = {name: value for name, value in vars(settings).items() if name != 'path'}
    return Corpus(lambda: mimic.read_mimic3(settings.path, **keywords, report=report), [report])


def _mimic_iv(settings: MimicSettings, release: Release, log: RejectionLog | None) -> Corpus:
    report = SourceReport('mimic_iv', log=log)
    keywords = {name: value for name, value in vars(settings).items() if name != 'path'}
    return Corpus(lambda: mimic.read_mimic4(settings.path, **keywords, report=report), [report])


def _aci_bench(settings: TextSettings, release: Release, log: RejectionLog | None) -> Corpus:
    return _unlabelled('aci_bench', texts.read_aci_bench, texts.ACI_BENCH_SPLITS, settings, log)


def _mts_dialog(settings: TextSettings, release: Release, log: RejectionLog | None) -> Corpus:
    return _unlabelled('mts_dialog', texts.read_mts_dialog, texts.MTS_DIALOG_SPLITS, settings, log)


def _unlabelled(
    name: str,
    read: Callable[..., Iterator[Document]],
    splits: Iterable[str],
    settings: TextSettings,
    log: RejectionLog | None,
) -> Corpus:
    reports = [SourceReport(name, split, log) for split in splits]

    def documents() -> Iterator[Document]:
        for report in reports:
            yield from read(settings.path, report.split, report=report)

    return Corpus(documents, reports, labelled=False)


def _text_folder(settings: TextSettings, release: Release, log: RejectionLog | None) -> Corpus:
    report = SourceReport('text_folder', log=log)

    def documents() -> Iterator[Document]:
        for document in texts.read_text_folder(settings.path, report=report):
            yield dataclasses.replace(document, split='train')

    return Corpus(documents, [report], labelled=False)


def _jsonl(settings: JsonlSettings, release: Release, log: RejectionLog | None) -> Corpus:
    if not settings.train:
        raise UserError('sources.jsonl.train is empty; set it to a JSONL file of documents (the README has the schema)')
    files = {split: path for split in SPLITS if (path := getattr(settings, split))}
    reports = {split: SourceReport(path, split, log) for split, path in files.items()}
    all_reports = list(reports.values())

    def documents() -> Iterator[Document]:
        for split, path in files.items():
            for document in jsonl.read_documents(
                path, split, report=reports[split], on_bad_record=settings.on_bad_record
            ):
                yield dataclasses.replace(document, split=split)

    def spans() -> Iterator[Span]:
        if settings.spans:
            report = SourceReport(settings.spans, 'spans', log)
            all_reports.append(report)
            yield from jsonl.read_spans(settings.spans, report=report, on_bad_record=settings.on_bad_record)

    return Corpus(documents, all_reports, spans=spans)


@dataclasses.dataclass(frozen=True)
class _Source:
    """How a source is opened, and what its `path` is, in words."""

    open: Callable[..., Corpus]
    path: str = ''


SOURCES = {
    'synthetic_notes': _Source(_synthetic),
    'codiesp': _Source(_codiesp, 'the folder that holds CodiEsp v4 (train/, dev/)'),
    'mdace': _Source(_mdace, 'the folder that holds MDACE (data/, splits/)'),
    'mimic_iii': _Source(_mimic_iii, 'the folder that holds NOTEEVENTS.csv and DIAGNOSES_ICD.csv'),
    'mimic_iv': _Source(_mimic_iv, 'the folder that holds hosp/ and note/ of MIMIC-IV'),
    'jsonl': _Source(_jsonl),
    'aci_bench': _Source(_aci_bench, 'the folder that holds ACI-Bench (data/challenge_data/)'),
    'mts_dialog': _Source(_mts_dialog, 'the folder that holds MTS-Dialog (Main-Dataset/)'),
    'text_folder': _Source(_text_folder, 'a folder of .txt files'),
}
