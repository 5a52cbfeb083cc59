// ---- Decisions

// Accepts or rejects a code, or takes that back; an added one is removed. Returns whether there is a new verdict.
function decide(verdict, key = state.key) {
  const { note } = state;
  const row = allRows(note).find((other) => other.key === key);
  if (!row) return false;
  const review = reviews.of(note);
  const isAdded = row.status === 'added';
  if (verdict === 'accepted' && (isAdded || row.malformed)) {
    say(
      isAdded
        ? `${row.code} is added already.`
        : `${row.code} has not the form of ${row.system}: it can only be rejected.`,
    );
    return false;
  }
  if (isAdded) {
    change([[note, withoutAdded(review, key)]]);
    say(`${row.code} removed.`);
    return true;
  }
  const isBack = review.verdicts[key] === verdict;
  change([[note, withVerdict(review, key, isBack ? null : verdict)]]);
  say(isBack ? `${row.code} is undecided again.` : `${row.code} ${verdict}.`);
  return !isBack;
}

function decideByKey(verdict) {
  const keys = rowElements().map((item) => item.dataset.key);
  const place = keys.indexOf(state.key);
  if (place < 0) return say('Choose a code first.');
  if (!decide(verdict)) return undefined;
  const next = keys[place + 1];
  const target =
    next ?? (rowElements().some((item) => item.dataset.key === keys[place]) ? keys[place] : keys[place - 1]);
  if (target !== undefined) choose(target, { focus: true });
  return undefined;
}

function acceptRest() {
  const { note } = state;
  const rows = undecidedRows(note, reviews.of(note));
  if (!rows.length) return say('No predicted code of this note is undecided.');
  change([[note, rows.reduce((review, row) => withVerdict(review, row.key, 'accepted'), reviews.of(note))]]);
  return say(`${many(rows.length, 'code')} accepted.`);
}

function change(pairs) {
  reviews.change(pairs);
  afterChange(pairs.map(([note]) => note));
}

function afterChange(notes) {
  for (const note of notes) fillProgress(note);
  if (notes.includes(state.note)) {
    // Rows whose words or presence changed are made anew; the others only change their verdict, so focus stays.
    const rows = new Map(shownRows(state.note).map((row) => [row.key, row]));
    const added = JSON.stringify(reviews.of(state.note).added);
    const same =
      added === state.addedShown &&
      rowElements().every((item) => rows.has(item.dataset.key)) &&
      rows.size === rowElements().length;
    if (same) {
      for (const item of rowElements()) fillVerdict(item, reviews.of(state.note).verdicts[item.dataset.key]);
    } else {
      const hadFocus = $('codes').contains(document.activeElement);
      const scroll = $('codes-scroll').scrollTop;
      const place = rowElements().findIndex((item) => item.dataset.key === state.key);
      showText();
      showCodes();
      $('codes-scroll').scrollTop = scroll;
      const keys = rowElements().map((item) => item.dataset.key);
      if (!keys.includes(state.key)) state.key = keys[Math.min(Math.max(place, 0), keys.length - 1)] ?? null;
      choose(state.key, { focus: hadFocus });
    }
  }
  showProgress();
}

function showProgress() {
  state.addedShown = JSON.stringify(reviews.of(state.note).added);
  const open = undecidedRows(state.note, reviews.of(state.note)).length;
  $('accept-rest').disabled = !open;
  $('accept-rest').textContent = open ? `Accept the rest (${open})` : 'Accept the rest';
  $('undo').disabled = !reviews.undone.length;
  const count = reviews.byNote.size;
  $('unsaved').hidden = reviews.kept;
  $('unsaved').textContent = reviews.kept
    ? ''
    : 'This browser keeps nothing for this page: decisions are lost when it closes. Export them before.';
  $('kept').textContent = count
    ? `${many(count, 'note')} with decisions${reviews.kept ? ', kept in this browser' : ', not kept'}`
    : 'No decisions yet';
}

function undo() {
  const notes = reviews.undo();
  if (!notes.length) return say('Nothing to undo.');
  if (!notes.includes(state.note)) showNote(notes[0]);
  afterChange(notes);
  return say('Undone.');
}

// ---- Adding a code

function pick(parts) {
  state.picked = parts?.length ? parts : null;
  $('add-words').value = state.picked ? sliceWords(state.note.text, state.offsets, parts).replace(/\s+/g, ' ') : '';
  showPicked();
}

// Shows the words also once the browser's own selection is gone; without elements, which would disturb it.
function showPicked() {
  if (!window.CSS?.highlights) return;
  CSS.highlights.delete('picked');
  if (!state.picked) return;
  const ranges = state.picked.map(([begin, end]) => {
    const range = document.createRange();
    range.setStart(...textPosition(state.offsets.toUnit(begin)));
    range.setEnd(...textPosition(state.offsets.toUnit(end)));
    return range;
  });
  CSS.highlights.set('picked', new Highlight(...ranges));
}

function textPosition(unit) {
  const walker = document.createTreeWalker($('note-text'), NodeFilter.SHOW_TEXT);
  let left = unit;
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    if (left <= node.length) return [node, left];
    left -= node.length;
  }
  return [$('note-text'), $('note-text').childNodes.length];
}

function selectedParts() {
  const selection = getSelection();
  const whole = document.createRange();
  whole.selectNodeContents($('note-text'));
  const unitsBefore = (container, offset) => {
    const before = whole.cloneRange();
    before.setEnd(container, offset);
    return before.toString().length;
  };
  const parts = [];
  for (let i = 0; i < selection.rangeCount; i++) {
    const range = selection.getRangeAt(i);
    if (range.collapsed || !range.intersectsNode($('note-text'))) continue;
    const first =
      range.compareBoundaryPoints(Range.START_TO_START, whole) < 0
        ? 0
        : unitsBefore(range.startContainer, range.startOffset);
    const last =
      range.compareBoundaryPoints(Range.END_TO_END, whole) > 0
        ? state.note.text.length
        : unitsBefore(range.endContainer, range.endOffset);
    const kept = trimmed(state.note.text, first, last);
    if (kept) parts.push([state.offsets.toPoint(kept[0]), state.offsets.toPoint(kept[1], true)]);
  }
  return parts;
}

function namedCode(typed, system) {
  const code = normalizeCode(typed, system);
  if (isWellFormed(code, system, DATA.forms)) return { code, system };
  const words = typed.toLowerCase().split(/\s+/).filter(Boolean);
  const named = DATA.codes.filter(
    (item) =>
      item.system === system &&
      !item.malformed &&
      words.length &&
      words.every((word) => item.title.toLowerCase().includes(word)),
  );
  const exact = named.filter((item) => item.title.toLowerCase() === words.join(' '));
  if (named.length === 1 || exact.length === 1) return exact[0] ?? named[0];
  const found = named.length
    ? `${named.length} codes of this page have these words: ${named
        .slice(0, 4)
        .map((item) => item.code)
        .join(', ')}${named.length > 4 ? ' ...' : ''}`
    : `this has not the form of ${system}, and no code of this page has these words`;
  return { error: `${found}. Type the code.` };
}

function addCode() {
  const { note } = state;
  const typed = $('add-code').value;
  const named = typed.trim()
    ? namedCode(typed, $('add-system').value)
    : { error: 'Type a code, or words of its title.' };
  const words = $('add-words').value;
  const isLost = words.trim() && !state.picked;
  const error =
    named.error ?? (isLost ? 'These words are not in the note. Select them there, or leave the field empty.' : '');
  $('add-error').textContent = error;
  $('add-error').hidden = !error;
  if (error) return (named.error ? $('add-code') : $('add-words')).focus();
  const item = { code: named.code, system: named.system, evidence: state.picked ? [{ parts: state.picked }] : [] };
  const key = keyOf(item);
  change([
    [
      note,
      withAdded(
        reviews.of(note),
        item,
        note.rows.some((row) => row.key === key),
      ),
    ],
  ]);
  $('add-code').value = '';
  pick(null);
  if (!shownRows(note).some((row) => row.key === key)) {
    state.all = true;
    showCodes();
  }
  choose(key, { focus: true });
  return say(`${item.code} added${item.evidence.length ? ' with its words' : ', without words'}.`);
}

// ---- Files

function openExport() {
  const open = [...reviews.byNote.keys()].map((id) => NOTES_BY_ID.get(id)).filter(Boolean);
  if (!open.length) return say('There is no decision to export yet.');
  const undecided = open.reduce((sum, note) => sum + undecidedRows(note, reviews.of(note)).length, 0);
  $('export-summary').textContent =
    `${many(open.length, 'note')} with decisions; predicted codes in them that are not decided: ${undecided}.`;
  return $('export-dialog').showModal();
}

function saveExport() {
  const records = NOTES.filter((note) => reviews.byNote.has(note.id)).map((note) =>
    exportRecord(note, reviews.of(note), $('keep-undecided').checked),
  );
  const url = URL.createObjectURL(
    new Blob(
      records.map((record) => `${JSON.stringify(record)}\n`),
      { type: 'application/jsonl' },
    ),
  );
  const name =
    DATA.title
      .toLowerCase()
      .replace(/[^a-z0-9]+/g, '-')
      .replace(/^-|-$/g, '') || 'audit';
  const link = make('a', { href: url, download: `${name}-reviewed.jsonl` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
  reviews.exported = true;
  $('export-dialog').close();
  const codes = records.reduce((sum, record) => sum + record.codes.length, 0);
  say(`Exported ${many(records.length, 'note')} with ${many(codes, 'code')}.`);
}

async function importFile(file) {
  const { pairs, foreign } = importReviews(await file.text(), NOTES_BY_ID, DATA.forms);
  if (pairs.length) change(pairs);
  const leftOut = foreign ? `; ${many(foreign, 'line')} left out: not an export of this page` : '';
  say(`Decisions on ${many(pairs.length, 'note')} taken over${leftOut}.`);
}
