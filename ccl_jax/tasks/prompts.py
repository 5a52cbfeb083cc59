"""Prompt and target of each task, as text.

The document task and the single span follow the figure of arXiv 2603.15270; the
other shapes and all details are choices of this project (method.md of the paper
is not public). In short:

    document, blocks    {text}                ->  ## Evidence / - words ... / ## ICD Codes / - CODE ...
    document, pairs     {text}                ->  ## ICD Codes / - words -> CODE ...
    span, single        ## Evidence / - words ->  ## ICD Code / - CODE
    span, list          ## Evidence / - words ... -> as the document's target, without its evidence block
    span, in_context    an unrelated text, then as `list`
    lm                  nothing               ->  the text itself

Without evidence in the targets (standard fine-tuning, arm A of the experiment) all answers are the
block of codes alone.
"""

import dataclasses
from collections.abc import Iterable, Sequence

from ccl_jax.icd.codes import ICD10CM
from ccl_jax.records import Annotation, Document, Evidence, Span
from ccl_jax.tasks import TaskExample

FORMATS = ('blocks', 'pairs')
SHAPES = ('single', 'list', 'in_context')
UNEVIDENCED = ('keep', 'drop', 'codes_only')

EVIDENCE_HEADING = '## Evidence'
CODES_HEADING = '## ICD Codes'
CODE_HEADING = '## ICD Code'
ARROW = ' -> '
PART_SEPARATOR = ' ... '


@dataclasses.dataclass(frozen=True)
class Item:
    """One line of an answer: a quote ('' where there is none) and its code."""

    quote: str
    code: str


def document_prompt(text: str) -> str:
    return f'{text.rstrip()}\n\n'


def document_example(
    document: Document, output_format: str, unevidenced: str = 'keep', evidence: bool = True
) -> TaskExample:
    """Returns the document task of `document`.

    Args:
        output_format: 'blocks' or 'pairs'.
        unevidenced: what becomes of codes without evidence. 'keep': they follow
            the others (in `pairs` with an empty quote); 'drop': they are left
            out; 'codes_only': they follow as bare codes, in `pairs` too, and a
            document without any evidence has no evidence block.
        evidence: whether the target quotes it; without, it holds the same codes in the same order.
    """
    quoted, bare = answer_items(document)
    if unevidenced == 'drop':
        bare = []
    codes = dict.fromkeys([item.code for item in quoted] + bare)
    if not evidence:
        target = _codes_block(codes)
    elif output_format == 'pairs':
        lines = [_pair_line(item) for item in quoted]
        lines += [f'- {code}' if unevidenced == 'codes_only' else _pair_line(Item('', code)) for code in bare]
        target = '\n'.join([CODES_HEADING, *lines])
    else:
        target = _codes_block(codes)
        if quoted or unevidenced != 'codes_only':
            quotes = dict.fromkeys(item.quote for item in quoted)
            target = '\n'.join([EVIDENCE_HEADING, *(f'- {quote}' for quote in quotes), '', target])
    return TaskExample(f'document:{document.doc_id}', 'document', document_prompt(document.text), target)


def answer_items(document: Document) -> tuple[list[Item], list[str]]:
    """Returns (items in document order, each (quote, code) once; codes without evidence).

    Only ICD-10-CM codes are asked of the model.
    """
    found: list[tuple[int, Item]] = []
    bare: list[str] = []
    for annotation in document.annotations:
        if annotation.system != ICD10CM:
            continue
        if not annotation.evidence:
            bare.append(annotation.code)
        for evidence in annotation.evidence:
            found.append((min(evidence.parts)[0], Item(quote_of(document.text, evidence), annotation.code)))
    found.sort(key=lambda pair: pair[0])
    items = list(dict.fromkeys(item for _, item in found))
    evidenced = {item.code for item in items}
    return items, [code for code in dict.fromkeys(bare) if code not in evidenced]


def quote_of(text: str, evidence: Evidence) -> str:
    """Returns the evidence as the model writes it: one line, parts of a discontinuous
    reference apart, so that each part can be found in the text again."""
    return PART_SEPARATOR.join(' '.join(text[begin:end].split()) for begin, end in evidence.parts)


def window(document: Document, begin: int, end: int) -> Document:
    """Returns the document cut to text[begin:end]; a code goes with its evidence.

    Evidence outside the window is dropped, and with its last evidence its code;
    codes that never had evidence stay.
    """
    annotations: list[Annotation] = []
    for annotation in document.annotations:
        kept = tuple(
            dataclasses.replace(evidence, parts=tuple((a - begin, b - begin) for a, b in evidence.parts))
            for evidence in annotation.evidence
            if all(begin <= a and b <= end for a, b in evidence.parts)
        )
        if kept or not annotation.evidence:
            annotations.append(dataclasses.replace(annotation, evidence=kept))
    return dataclasses.replace(document, text=document.text[begin:end], annotations=tuple(annotations))


def span_prompt(quotes: Sequence[str]) -> str:
    """Returns the prompt that asks for the codes of quotes, each on one line."""
    return '\n'.join([EVIDENCE_HEADING, *(f'- {quote}' for quote in quotes)]) + '\n\n'


def span_example(
    spans: Sequence[Span], shape: str, output_format: str, context: str = '', evidence: bool = True
) -> TaskExample:
    """Returns the span task of `spans` (exactly one for 'single').

    Args:
        shape: one of `SHAPES`.
        output_format: 'blocks' or 'pairs': how the answer to a list is written.
        context: the unrelated text of `in_context`.
        evidence: as for `document_example`: without, an answer in `pairs` is that in `blocks`.
    """
    quotes = [' '.join(span.text.split()) for span in spans]
    prompt = span_prompt(quotes)
    if shape == 'single':
        (span,) = spans
        return TaskExample(f'span:{span.span_id}', 'span', prompt, f'{CODE_HEADING}\n- {span.code}')
    if output_format == 'pairs' and evidence:
        lines = [_pair_line(Item(quote, span.code)) for quote, span in zip(quotes, spans, strict=True)]
        target = '\n'.join([CODES_HEADING, *lines])
    else:
        target = _codes_block(dict.fromkeys(span.code for span in spans))
    if shape == 'in_context':
        prompt = document_prompt(context) + prompt
    example_id = f'span:{shape}:' + '+'.join(span.span_id for span in spans)
    return TaskExample(example_id, 'span', prompt, target)


def lm_example(text_id: str, text: str) -> TaskExample:
    return TaskExample(f'lm:{text_id}', 'lm', '', text)


def _codes_block(codes: Iterable[str]) -> str:
    return '\n'.join([CODES_HEADING, *(f'- {code}' for code in codes)])


def _pair_line(item: Item) -> str:
    return f'- {item.quote}{ARROW}{item.code}' if item.quote else f'-{ARROW}{item.code}'
