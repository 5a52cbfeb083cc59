"""Synthetic clinical notes with codes and exact evidence, written from the embedded release.

No patient stands behind these notes: sections, sentences and findings are drawn
by a seeded generator. They exist so that the whole path can be run and tested
where no licensed text can be had, and every document says so in its first line,
its id and its `source`.

The code space falls into three strata (method.md): S0 codes are carried by
training documents, S1 codes only by spans, S2 codes by neither. A note writes
each code in one of several surface forms: forms of the release (which gold spans
carry) and forms of our own (`synthetic_terms.VARIANTS`, which no gold span
carries). S1 codes alternate between the two, own forms first, so that at least
half of their forms in evaluation notes occur in no span.
"""

import collections
import dataclasses
import functools
import random
from collections.abc import Callable, Iterator

from ccl_jax.errors import UserError
from ccl_jax.icd.release import Release
from ccl_jax.icd.terms import natural_form
from ccl_jax.records import Annotation, Document, Evidence
from ccl_jax.sources.synthetic_terms import VARIANTS

SOURCE = 'synthetic_notes'
MARK = '[SYNTHETIC NOTE]'
EVIDENCE_HEADING = '## Evidence'
STRATA = ('S0', 'S1', 'S2')

_MAX_FORM_WORDS = 6
_MAX_FORMS = 3

_DISTRACTORS_AT_MOST = 8
_DISTRACTOR_CHANCE = 0.55  # of each optional negated or family sentence

_PRESENTATIONS = (
    'Presents with {}.',
    'Comes in today because of {}.',
    'Seen in clinic for {}.',
    'Admitted with {}.',
    'Reports {} for {days} days.',
    'Was brought in with {} since yesterday.',
)
_AFFIRMED = (
    'Found to have {}.',
    'Imaging was consistent with {}.',
    'Treated for {} with good response.',
    'Course was complicated by {}.',
    'Continues to be followed for {}.',
    'Laboratory results confirmed {}.',
    'Developed {} on day {days}.',
    'The team also managed {}.',
)
_PLANS = (
    'Continue treatment for {}.',
    '{}: stable on current regimen.',
    '{}: follow up in {days} weeks.',
    'Adjusted medication for {}.',
    'Discharged with a diagnosis of {}.',
)
_DISTRACTORS = (
    'Denies {}.',
    'No evidence of {}.',
    'Negative for {}.',
    '{} was ruled out.',
    'Workup excluded {}.',
    'There are no signs of {}.',
)
_FAMILY = (
    'Mother had {}.',
    'Father died of {}.',
    'Sister is treated for {}.',
    'Brother with {}.',
    'No family history of {}.',
)
_FILLERS = (
    'Vital signs were stable on arrival.',
    'The patient lives at home with a spouse.',
    'Sleeps well and walks daily.',
    'Tolerated the diet without difficulty.',
    'Physical examination was otherwise unremarkable.',
    'Medications were reviewed with the patient.',
    'Works part time in an office.',
    'No known drug allergies.',
    'Laboratory tests were repeated in the morning.',
    'The patient was seen by the consulting service.',
    'Return precautions were discussed.',
    'All questions were answered.',
    'Ambulating with assistance from therapy.',
    'Pain was controlled with oral medication.',
)
_SUBJECTS = ('woman', 'man')


@dataclasses.dataclass(frozen=True)
class NoteSettings:
    """What the corpus holds.

    Attributes:
        seed: of everything drawn.
        train, dev, test: numbers of notes.
        codes_s0, codes_s1, codes_s2: numbers of codes in each stratum.
        min_codes, max_codes: codes of one note, uniformly drawn.
        share_s1, share_s2: chance that a code of a dev or test note is drawn from
            that stratum (training notes draw from S0 alone).
        fillers: sentences without a finding, per section that holds prose.
        brief: share of the training notes that are brief: one paragraph with one to
            three codes. Notes for evaluation are never brief.
    """

    seed: int = 0
    train: int = 2000
    dev: int = 100
    test: int = 200
    codes_s0: int = 60
    codes_s1: int = 24
    codes_s2: int = 12
    min_codes: int = 3
    max_codes: int = 7
    share_s1: float = 0.2
    share_s2: float = 0.08
    fillers: int = 1
    brief: float = 0.0

    def __post_init__(self) -> None:
        for name in ('train', 'dev', 'test', 'codes_s1', 'codes_s2', 'fillers'):
            if getattr(self, name) < 0:
                raise UserError(f'{name} is {getattr(self, name)}; it must be at least 0')
        for name in ('share_s1', 'share_s2', 'brief'):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f'{name} is {getattr(self, name)}; it must lie between 0 and 1')
        if not 1 <= self.min_codes <= self.max_codes:
            raise UserError(f'min_codes is {self.min_codes} and max_codes {self.max_codes}; give at least 1, in order')


class SyntheticNotes:
    """The corpus; a pure function of the settings and the release.

    Attributes:
        strata: code -> 'S0', 'S1' or 'S2'; within a stratum, frequent codes first.
        terms: code -> its forms that the release prints, as notes write them.
        variants: code -> its forms that the release does not print.

    Raises:
        UserError: the settings ask for more codes than the table of forms has.
    """

    def __init__(self, settings: NoteSettings, release: Release):
        self.settings = settings
        self.terms, self.variants = _surface_forms(release)
        wanted = (settings.codes_s0, settings.codes_s1, settings.codes_s2)
        if min(wanted) < 0 or wanted[0] < 1 or sum(wanted) > len(self.terms):
            raise UserError(
                f'the synthetic notes can draw on {len(self.terms)} codes, but the config asks for {sum(wanted)} with '
                f'{wanted[0]} in S0; lower sources.synthetic_notes.codes_s0, codes_s1 or codes_s2'
            )
        rng = random.Random(f'{settings.seed}:strata')
        codes = rng.sample(sorted(self.terms), sum(wanted))
        names = [name for name, count in zip(STRATA, wanted, strict=True) for _ in range(count)]
        self.strata = dict(zip(codes, names, strict=True))

    def codes(self, stratum: str) -> list[str]:
        return [code for code, name in self.strata.items() if name == stratum]

    def documents(self, split: str) -> Iterator[Document]:
        """Yields the notes of a split; each depends on (seed, split, its number) and, for
        the alternation of S1 forms, on the notes before it."""
        forms = _FormChooser(self)
        for number in range(getattr(self.settings, split)):
            rng = random.Random(f'{self.settings.seed}:{split}:{number}')
            draft = _Draft()
            choose = functools.partial(forms.choose, rng=rng)
            codes, distractors = self._draw_codes(rng, split), self._distractors(rng, split)
            if split == 'train' and rng.random() < self.settings.brief:
                _write_brief_note(draft, codes[: rng.randint(1, 3)], distractors, choose, rng)
            else:
                _write_note(draft, codes, distractors, choose, rng, self.settings)
            yield draft.document(f'synthetic-{split}-{number:05d}', split)

    def texts(self, count: int) -> Iterator[tuple[str, str]]:
        """Yields (id, text) without codes, for language modelling: the stand-in for pretraining.

        A third of them repeat a short list of random phrases several times, the others are
        notes about random phrases, brief or whole, followed by a list of the phrases that
        the note affirms. Both show what a quote is. The words are those of S0 forms and
        of what spans carry of S1; no form of an S2 code and no code occurs.
        """
        phrases = _Phrases(self)
        for number in range(count):
            rng = random.Random(f'{self.settings.seed}:texts:{number}')
            write = (_repeated_list, _quoted_brief_note, _quoted_note)[number % 3]
            yield f'synthetic-text-{number:05d}', write(phrases, rng, self.settings)

    def _draw_codes(self, rng: random.Random, split: str) -> list[str]:
        settings = self.settings
        drawn: list[str] = []
        for _ in range(rng.randint(settings.min_codes, settings.max_codes)):
            chance = rng.random() if split != 'train' else 1.0
            if chance < settings.share_s2 and settings.codes_s2:
                stratum = 'S2'
            elif chance < settings.share_s1 + settings.share_s2 and settings.codes_s1:
                stratum = 'S1'
            else:
                stratum = 'S0'
            code = _long_tailed(rng, self.codes(stratum))
            if code not in drawn:
                drawn.append(code)
        return drawn

    def _distractors(self, rng: random.Random, split: str) -> list[str]:
        """Codes for negated and family mentions: of S0 alone in training notes."""
        pool = self.codes('S0') if split == 'train' else self.codes('S0') + self.codes('S1')
        return rng.sample(pool, min(len(pool), _DISTRACTORS_AT_MOST))


def _surface_forms(release: Release) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Returns (terms, variants) per code; no form stands for two codes."""
    natural: dict[str, list[str]] = {}
    for code in VARIANTS:
        if code not in release:
            continue
        forms = [natural_form(term) for term in (release.title(code), *release.inclusion_terms(code))]
        short = [form for form in dict.fromkeys(forms) if len(form.split()) <= _MAX_FORM_WORDS and ',' not in form]
        if short:
            natural[code] = short[:_MAX_FORMS]
    owners = collections.Counter(form.lower() for forms in (*natural.values(), *VARIANTS.values()) for form in forms)
    terms, variants = {}, {}
    for code, forms in natural.items():
        own = [form for form in VARIANTS[code] if owners[form.lower()] == 1][:_MAX_FORMS]
        printed = [form for form in forms if owners[form.lower()] == 1]
        if own and printed:
            terms[code], variants[code] = printed, own
    return terms, variants


def _long_tailed(rng: random.Random, codes: list[str]) -> str:
    """Draws a code; the n-th of the list has a weight of 1 / sqrt(n + 4)."""
    return rng.choices(codes, weights=[(n + 5) ** -0.5 for n in range(len(codes))])[0]


class _Phrases:
    """Random phrases of the words that training may know, none of which holds a form that it may not."""

    def __init__(self, corpus: SyntheticNotes):
        known = [form for code in corpus.codes('S0') for form in corpus.terms[code] + corpus.variants[code]]
        known += [form for code in corpus.codes('S1') for form in corpus.terms[code]]
        unknown = [form for code in corpus.codes('S2') for form in corpus.terms[code] + corpus.variants[code]]
        unknown += [form for code in corpus.codes('S1') for form in corpus.variants[code]]
        self._words = sorted({word for form in known for word in form.split()})
        self._unknown = [f' {form.lower()} ' for form in unknown]

    def draw(self, rng: random.Random) -> str:
        while True:
            phrase = ' '.join(rng.choices(self._words, k=rng.randint(1, 4)))
            if not any(form in f' {phrase.lower()} ' for form in self._unknown):
                return phrase


def _repeated_list(phrases: _Phrases, rng: random.Random, settings: NoteSettings) -> str:
    lines = [f'- {phrases.draw(rng)}' for _ in range(rng.randint(2, 4))]
    return '\n'.join(lines * 5)


def _quoted_brief_note(phrases: _Phrases, rng: random.Random, settings: NoteSettings) -> str:
    findings = [phrases.draw(rng) for _ in range(rng.randint(1, 3))]
    draft = _Draft()
    _write_brief_note(draft, findings, [phrases.draw(rng) for _ in range(2)], _as_it_is, rng)
    return _with_quotes(draft)


def _quoted_note(phrases: _Phrases, rng: random.Random, settings: NoteSettings) -> str:
    findings = [phrases.draw(rng) for _ in range(rng.randint(settings.min_codes, settings.max_codes))]
    distractors = [phrases.draw(rng) for _ in range(_DISTRACTORS_AT_MOST)]
    draft = _Draft()
    _write_note(draft, findings, distractors, _as_it_is, rng, settings)
    return _with_quotes(draft)


def _as_it_is(finding: str, affirmed: bool) -> str:
    return finding


def _with_quotes(draft: '_Draft') -> str:
    quotes = sorted((evidence.parts[0], text) for text, found in draft.evidence.items() for evidence in found)
    return '\n'.join([draft.text, EVIDENCE_HEADING, *(f'- {text}' for _, text in quotes)])


class _FormChooser:
    """Chooses how the codes of a split's notes are written."""

    def __init__(self, corpus: SyntheticNotes):
        self._corpus = corpus
        self._turn: collections.Counter[tuple[str, bool]] = collections.Counter()

    def choose(self, code: str, affirmed: bool, rng: random.Random) -> str:
        terms, variants = self._corpus.terms[code], self._corpus.variants[code]
        if self._corpus.strata[code] != 'S1':
            return rng.choice(terms + variants)
        # Own form, term, own form, ...: at no time have more terms than own forms been used,
        # neither as evidence nor as distractors.
        turn = self._turn[code, affirmed]
        self._turn[code, affirmed] += 1
        forms = variants if turn % 2 == 0 else terms[: len(variants)]
        return forms[turn // 2 % len(forms)]


class _Draft:
    """A note under construction.

    Attributes:
        text: what is written so far.
        evidence: finding -> where and how it was affirmed.
    """

    def __init__(self) -> None:
        self.text = ''
        self.evidence: dict[str, list[Evidence]] = {}

    def write(self, text: str) -> None:
        self.text += text

    def mention(self, template: str, form: str, finding: str | None, rng: random.Random) -> None:
        """Writes a sentence around `form`; it is evidence for `finding`, or for None a distractor."""
        before, after = template.replace('{days}', str(rng.randint(2, 9))).split('{}')
        begin = len(self.text) + len(before)
        self.text += before + form + after
        if finding is not None:
            self.evidence.setdefault(finding, []).append(Evidence(((begin, begin + len(form)),), form))

    def document(self, doc_id: str, split: str) -> Document:
        annotations = tuple(Annotation(code, evidence=tuple(found)) for code, found in self.evidence.items())
        return Document(
            doc_id=doc_id, text=self.text, annotations=annotations, group_id=doc_id, source=SOURCE, split=split
        )


def _write_note(
    draft: _Draft,
    findings: list[str],
    distractors: list[str],
    choose: Callable[[str, bool], str],
    rng: random.Random,
    settings: NoteSettings,
) -> None:
    """Writes the sections in order; every finding is affirmed once, some once more in the plan.

    Args:
        choose: (finding, whether it is affirmed) -> the words for it.
    """
    spare = iter(distractors)
    slots: dict[str, list[str]] = {'presentation': [], 'history': [], 'course': []}
    for finding in findings:
        slots[rng.choice(tuple(slots))].append(finding)

    def fill() -> None:
        for _ in range(settings.fillers):
            draft.write(' ' + rng.choice(_FILLERS))

    def affirm(finding: str, templates: tuple[str, ...]) -> None:
        draft.mention(' ' + rng.choice(templates), choose(finding, True), finding, rng)

    def distract(templates: tuple[str, ...], chance: float = _DISTRACTOR_CHANCE) -> None:
        finding = next(spare, None)
        if finding is not None and finding not in findings and rng.random() < chance:
            draft.mention(' ' + rng.choice(templates), choose(finding, False), None, rng)

    draft.write(f'{MARK}\nHISTORY OF PRESENT ILLNESS:')
    draft.write(f' A {rng.randint(25, 90)}-year-old {rng.choice(_SUBJECTS)}.')
    for finding in slots['presentation']:
        affirm(finding, _PRESENTATIONS)
    fill()
    distract(_DISTRACTORS)
    draft.write('\nPAST MEDICAL HISTORY:')
    for position, finding in enumerate(slots['history']):
        draft.mention(' {}' if position == 0 else ', {}', choose(finding, True), finding, rng)
    draft.write('.' if slots['history'] else ' None.')
    draft.write('\nFAMILY HISTORY:')
    distract(_FAMILY, chance=1.0)
    distract(_FAMILY)
    draft.write('\nHOSPITAL COURSE:')
    fill()
    for finding in slots['course']:
        affirm(finding, _AFFIRMED)
        distract(_DISTRACTORS, chance=0.2)
    distract(_DISTRACTORS)
    draft.write('\nASSESSMENT AND PLAN:')
    fill()
    for finding in findings:
        if rng.random() < 0.15:
            affirm(finding, _PLANS)
    draft.write('\n')


def _write_brief_note(
    draft: _Draft, findings: list[str], distractors: list[str], choose: Callable[[str, bool], str], rng: random.Random
) -> None:
    """Writes one paragraph: the findings, up to two distractors and a filler, in any order."""
    templates = _PRESENTATIONS + _AFFIRMED + _PLANS
    sentences: list[tuple[str, str | None, bool]] = [(rng.choice(templates), finding, True) for finding in findings]
    for distractor in [d for d in distractors if d not in findings][: rng.randint(0, 2)]:
        sentences.append((rng.choice(_DISTRACTORS + _FAMILY), distractor, False))
    if rng.random() < 0.5:
        sentences.append((rng.choice(_FILLERS), None, False))
    rng.shuffle(sentences)
    draft.write(f'{MARK}\n')
    for position, (template, finding, affirmed) in enumerate(sentences):
        draft.write(' ' if position else '')
        if finding is None:
            draft.write(template)
        else:
            draft.mention(template, choose(finding, affirmed), finding if affirmed else None, rng)
    draft.write('\n')
