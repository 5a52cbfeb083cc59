// A reviewer's decisions. Of one note, where a key is `${system} ${code}`:
// {verdicts: {key: 'accepted' | 'rejected'}, added: [{code, system, evidence: [{parts}]}]}.
// Such objects are replaced, never changed, so that undo can put the old one back.
const NO_REVIEW = Object.freeze({ verdicts: Object.freeze({}), added: Object.freeze([]) });

function keyOf(item) {
  return `${item.system} ${item.code}`;
}

class Reviews {
  constructor(digest) {
    this.storageKey = `ccl-jax audit ${digest}`;
    this.byNote = new Map();
    this.undone = [];
    this.kept = true; // Whether the browser's storage holds the decisions.
    this.exported = true; // Whether a file holds them.
    this.load();
  }

  of(note) {
    return this.byNote.get(note.id) ?? NO_REVIEW;
  }

  load() {
    try {
      const stored = localStorage.getItem(this.storageKey);
      this.byNote = new Map(Object.entries(stored ? JSON.parse(stored) : {}));
      this.undone = [];
      localStorage.setItem(`${this.storageKey} probe`, '');
      localStorage.removeItem(`${this.storageKey} probe`);
    } catch {
      this.kept = false;
    }
  }

  // Takes over [note, review] pairs as one step of undo.
  change(pairs) {
    this.undone.push(pairs.map(([note]) => [note, this.byNote.get(note.id)]));
    this.put(pairs);
  }

  // Returns the notes whose decisions are those of before.
  undo() {
    const pairs = this.undone.pop() ?? [];
    this.put(pairs);
    return pairs.map(([note]) => note);
  }

  put(pairs) {
    for (const [note, review] of pairs) {
      if (review && (Object.keys(review.verdicts).length || review.added.length)) this.byNote.set(note.id, review);
      else this.byNote.delete(note.id);
    }
    this.exported = this.byNote.size === 0;
    try {
      localStorage.setItem(this.storageKey, JSON.stringify(Object.fromEntries(this.byNote)));
      this.kept = true;
    } catch {
      this.kept = false;
    }
  }

  get atRisk() {
    return !this.kept && !this.exported;
  }
}

// `verdict` may be null: undecided again. Words that were added to a code go with its acceptance.
function withVerdict(review, key, verdict) {
  const { [key]: _, ...verdicts } = review.verdicts;
  const added = verdict === 'accepted' ? review.added : withoutAdded(review, key).added;
  return { verdicts: verdict ? { ...verdicts, [key]: verdict } : verdicts, added };
}

// A predicted or gold code that is added again is accepted, with the new words beside its own.
function withAdded(review, item, isRow) {
  const before = review.added.find((other) => keyOf(other) === keyOf(item));
  const seen = new Set((before?.evidence ?? []).map((e) => JSON.stringify(e.parts)));
  const evidence = [...(before?.evidence ?? []), ...item.evidence.filter((e) => !seen.has(JSON.stringify(e.parts)))];
  const added = [...review.added.filter((other) => other !== before), { ...item, evidence }];
  return isRow ? withVerdict({ ...review, added }, keyOf(item), 'accepted') : { ...review, added };
}

function withoutAdded(review, key) {
  return { ...review, added: review.added.filter((item) => keyOf(item) !== key) };
}

function undecidedRows(note, review) {
  return note.rows.filter((row) => row.status !== 'missed' && !row.malformed && !review.verdicts[row.key]);
}

// One line of the export: a document as ccl_jax.sources.jsonl reads it; it ignores `review`, which Import reads.
function exportRecord(note, review, keepUndecided) {
  const kept = note.rows.filter((row) => review.verdicts[row.key] === 'accepted');
  const undecided = undecidedRows(note, review);
  const offsets = new Offsets(note.text);
  const quoted = (parts) => ({ parts, text: sliceWords(note.text, offsets, parts) });
  const codes = [...kept, ...(keepUndecided ? undecided : [])].map((row) => ({
    code: row.code,
    system: row.system,
    evidence: row.quotes.filter((quote) => quote.parts.length).map((quote) => quoted(quote.parts)),
  }));
  for (const item of review.added) {
    const evidence = item.evidence.map((e) => quoted(e.parts));
    const same = codes.find((other) => keyOf(other) === keyOf(item));
    if (same) same.evidence.push(...evidence);
    else codes.push({ code: item.code, system: item.system, evidence });
  }
  const named = (rows) => rows.map(({ code, system }) => ({ code, system }));
  return {
    doc_id: note.id,
    group_id: note.group,
    text: note.text,
    ...Object.fromEntries(['language', 'source', 'split'].filter((key) => note[key]).map((key) => [key, note[key]])),
    codes,
    review: {
      accepted: named(kept),
      rejected: named(note.rows.filter((row) => review.verdicts[row.key] === 'rejected')),
      undecided: named(undecided),
      added: review.added,
    },
  };
}

// [note, review] pairs of an exported file, and how many of its lines do not belong to this page.
function importReviews(content, notesById, forms) {
  const pairs = [];
  let foreign = 0;
  for (const line of content.split('\n')) {
    if (!line.trim()) continue;
    try {
      const record = JSON.parse(line);
      const note = notesById.get(record.doc_id);
      if (!note || note.text !== record.text) throw new Error('not a note of this page');
      const keys = new Set(note.rows.map((row) => row.key));
      const verdicts = {};
      for (const verdict of ['accepted', 'rejected']) {
        for (const item of record.review[verdict]) if (keys.has(keyOf(item))) verdicts[keyOf(item)] = verdict;
      }
      const length = [...note.text].length;
      const isPart = ([begin, end]) =>
        Number.isInteger(begin) && Number.isInteger(end) && begin >= 0 && begin < end && end <= length;
      const added = record.review.added.map(({ code, system, evidence }) => {
        if (!isWellFormed(code, system, forms) || !evidence.every((e) => e.parts.length && e.parts.every(isPart)))
          throw new Error('damaged');
        return { code, system, evidence: evidence.map((e) => ({ parts: e.parts })) };
      });
      pairs.push([note, { verdicts, added }]);
    } catch {
      foreign++;
    }
  }
  return { pairs, foreign };
}
