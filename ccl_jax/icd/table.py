"""The columns of a release: what the readers make, the cache keeps, and `Release` answers from."""

import dataclasses

# Notes of a code, block or chapter, under the names that `Release` uses for them.
NOTE_KINDS = ('includes', 'excludes1', 'excludes2', 'use_additional', 'code_first', 'code_also')


@dataclasses.dataclass(frozen=True)
class ReleaseTable:
    """One release, column by column.

    Columns of plain strings and numbers, because they go to a file and come back in a fraction of the time that
    98,000 objects would take.

    Attributes:
        name: version and file, e.g. 'ICD-10-CM 2021 (icd10cm_tabular_2021)'.
        codes: all codes, headers and billable, in normal form and in the order of the list: a code stands after the
            code above it.
        titles: beside `codes`, white space normalised.
        parents: beside `codes`, the row of the code above, -1 for a category (three characters).
        place_names: the chapters and blocks, e.g. 'chapter 9', 'block I10-I1A'.
        place_titles: beside `place_names`, e.g. 'Hypertensive diseases (I10-I1A)'.
        places_above: beside `place_names`, the row of the block or chapter around it, -1 for a chapter.
        category_places: for each category the row of its innermost block; empty where the source names none.
        inclusion_terms: code -> its inclusion terms.
        notes: kind (one of `NOTE_KINDS`) -> code or place name -> its own notes of this kind.
        index_terms: origin ('index', 'drug_table', ...) -> code -> terms of the alphabetic index.
        left_out_terms: origin -> number of index terms whose code the release does not have.
    """

    name: str
    codes: list[str]
    titles: list[str]
    parents: list[int]
    place_names: list[str] = dataclasses.field(default_factory=list)
    place_titles: list[str] = dataclasses.field(default_factory=list)
    places_above: list[int] = dataclasses.field(default_factory=list)
    category_places: dict[str, int] = dataclasses.field(default_factory=dict)
    inclusion_terms: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    notes: dict[str, dict[str, list[str]]] = dataclasses.field(
        default_factory=lambda: {kind: {} for kind in NOTE_KINDS}
    )
    index_terms: dict[str, dict[str, list[str]]] = dataclasses.field(default_factory=dict)
    left_out_terms: dict[str, int] = dataclasses.field(default_factory=dict)
