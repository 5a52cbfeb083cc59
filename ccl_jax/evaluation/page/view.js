const KINDS = {
  correct: ['\u2713', 'correct'],
  wrong: ['\u2717', 'wrong'],
  missed: ['\u25cb', 'missed'],
  predicted: ['\u25c6', 'predicted'],
  added: ['+', 'added'],
  not_in_release: ['\u26a0', 'not in release'],
  retired: ['\u26a0', 'retired'],
  not_billable: ['\u26a0', 'not billable'],
  ungrounded: ['\u26a0', 'ungrounded'],
  excludes1: ['\u26a0', 'Excludes1 conflict'],
  disagreement: ['\u26a0', 'disagreement'],
};
const JUDGEMENTS = ['correct', 'wrong', 'missed', 'predicted'];
const REVIEW_FILTERS = { undecided: 'undecided', accepted: 'accepted', rejected: 'rejected', added: 'added' };
const SHORTCUTS_KEY = 'ccl-jax audit single keys';

const $ = (id) => document.getElementById(id);
const DATA = JSON.parse($('data').textContent);
$('data').remove();
const NOTES = DATA.notes.map((note, index) => ({
  ...note,
  index,
  rows: note.rows.map(({ c, status, score, flags = [], quotes = [] }) => ({
    ...DATA.codes[c],
    key: keyOf(DATA.codes[c]),
    status,
    score,
    flags,
    quotes,
    kinds: new Set([status, ...flags.map(([kind]) => kind)]),
  })),
}));
const NOTES_BY_ID = new Map(NOTES.map((note) => [note.id, note]));
const CODES = new Map(DATA.codes.map((item) => [keyOf(item), item]));
const SYSTEMS = [...new Set(['ICD-10-CM', ...DATA.codes.map((item) => item.system)])];

const reviews = new Reviews(DATA.digest);
const state = {
  note: NOTES[0], // What is shown.
  key: null, // The chosen code.
  shown: NOTES, // The notes that the filter lets through.
  all: false, // Show the note's other codes too, although a filter is set.
  filter: { kind: '', code: '', stratum: '', id: '' },
  picked: null, // Words for the next added code: {parts}, in code points of the note.
  offsets: null, // Of the note's text.
  singleKeys: true,
};

// ---- What the filter lets through

function allRows(note) {
  const rows = new Map(note.rows.map((row) => [row.key, row]));
  for (const item of reviews.of(note).added) {
    const key = keyOf(item);
    const words = item.evidence.map((e) => ({ parts: e.parts, by: ['reviewer'] }));
    const row = rows.get(key);
    if (row) rows.set(key, { ...row, quotes: [...row.quotes, ...words] });
    else
      rows.set(key, {
        title: '',
        ...CODES.get(key),
        code: item.code,
        system: item.system,
        key,
        status: 'added',
        flags: [],
        quotes: words,
        kinds: new Set(['added']),
      });
  }
  return [...rows.values()];
}

function matches(row, note) {
  const { kind, code, stratum } = state.filter;
  if (stratum && row.stratum !== stratum) return false;
  if (kind in REVIEW_FILTERS) {
    const verdict = row.status === 'added' ? 'added' : (reviews.of(note).verdicts[row.key] ?? 'undecided');
    if (verdict !== kind) return false;
  } else if (kind && !row.kinds.has(kind)) return false;
  if (!code) return true;
  const wanted = code.toLowerCase();
  return bare(row.code).startsWith(bare(code)) || (wanted.length > 2 && row.title.toLowerCase().includes(wanted));
}

function bare(code) {
  return code.replace(/[\s.]+/g, '').toUpperCase();
}

function isFiltered() {
  const { kind, code, stratum } = state.filter;
  return Boolean(kind || code || stratum);
}

function shownRows(note) {
  const rows = allRows(note);
  return isFiltered() && !state.all ? rows.filter((row) => matches(row, note)) : rows;
}

function applyFilter() {
  const id = state.filter.id.toLowerCase();
  state.shown = NOTES.filter(
    (note) => note.id.toLowerCase().includes(id) && (!isFiltered() || allRows(note).some((row) => matches(row, note))),
  );
  $('list').replaceChildren(...state.shown.map(entryOf));
  $('shown').textContent = `${state.shown.length.toLocaleString('en')} of ${many(NOTES.length, 'note')}`;
  $('clear').hidden = !isFiltered() && !id;
}

// ---- The list of notes

const entries = new Map();

function entryOf(note) {
  if (!entries.has(note)) {
    const link = make(
      'a',
      { tabindex: -1 },
      make('span', { class: 'name', dir: 'auto' }, visible(note.id)),
      make('span', { class: 'progress' }),
      make('span', { class: 'quiet' }, tally(note.rows)),
    );
    const flagged = note.rows.filter((row) => row.flags.length).length;
    if (flagged)
      link.append(
        make('span', { class: 'flag', role: 'img', 'aria-label': `${flagged} flagged` }, `\u26a0 ${flagged}`),
      );
    link.setAttribute('href', `#${new URLSearchParams({ note: note.id })}`);
    entries.set(note, make('li', {}, link));
    fillProgress(note);
  }
  return entries.get(note);
}

function tally(rows) {
  const counts = JUDGEMENTS.map((status) => [rows.filter((row) => row.status === status).length, status]);
  return (
    counts
      .filter(([count]) => count)
      .map(([count, word]) => `${count.toLocaleString('en')} ${word}`)
      .join(' \u00b7 ') || 'no codes'
  );
}

function fillProgress(note) {
  const review = reviews.of(note);
  const decided =
    Object.keys(review.verdicts).length + review.added.filter((item) => !review.verdicts[keyOf(item)]).length;
  const open = undecidedRows(note, review).length;
  const progress = entries.get(note)?.querySelector('.progress');
  if (progress) progress.textContent = !decided ? '' : open ? `${open} open` : '\u2713 done';
}

// ---- The note, with the words of its codes marked

// The text is cut wherever words of a code begin or end; each piece is marked with all codes over it.
function showText() {
  const { note, offsets } = state;
  const spans = [];
  for (const row of allRows(note)) {
    row.quotes.forEach((quote, i) => {
      for (const [begin, end] of quote.parts) {
        spans.push({
          begin: offsets.toUnit(begin),
          end: offsets.toUnit(end),
          row,
          by: quote.by,
          quote: `${row.key} ${i}`,
        });
      }
    });
  }
  const cuts = [...new Set([0, note.text.length, ...spans.flatMap(({ begin, end }) => [begin, end])])].sort(
    (a, b) => a - b,
  );
  const pieces = cuts.slice(1).map((end, i) => {
    const begin = cuts[i];
    const words = visible(note.text.slice(begin, end));
    const over = spans.filter((span) => span.begin <= begin && end <= span.end);
    if (!over.length) return words;
    const mark = make('mark', { class: [...new Set(over.flatMap((span) => span.by))].join(' ') }, words);
    mark.title = [...new Set(over.map((span) => `${span.row.code} ${span.row.title} (${span.by.join(' and ')})`))].join(
      '\n',
    );
    mark.keys = [...new Set(over.map((span) => span.row.key))];
    mark.quotes = new Set(over.map((span) => span.quote));
    return mark;
  });
  $('note-text').replaceChildren(...pieces);
}

function pointOut(quote = null) {
  const marks = [...$('note-text').querySelectorAll('mark')];
  for (const mark of marks) {
    mark.classList.toggle('current', mark.keys.includes(state.key));
    mark.classList.toggle('exact', quote !== null && mark.quotes.has(quote));
  }
  const first = marks.find((mark) => (quote === null ? mark.classList.contains('current') : mark.quotes.has(quote)));
  if (first) first.scrollIntoView({ block: 'center' });
}

// ---- The codes of the note

function rowElement(row) {
  const { note } = state;
  const item = make('li', { class: `row ${row.status}` });
  item.dataset.key = row.key;
  const name = make('button', { type: 'button', class: 'code' }, row.code);
  if (SYSTEMS.length > 1) name.append(make('span', { class: 'system' }, ` ${row.system}`));
  const [sign, word] = KINDS[row.status];
  const facts = [make('span', { class: 'status' }, `${sign} ${word}`)];
  if (row.stratum) facts.push(make('span', { class: 'quiet' }, row.stratum));
  if (row.score !== undefined)
    facts.push(make('span', { class: 'quiet' }, `score ${Number(row.score.toPrecision(3))}`));
  const flags = [...new Set(row.flags.map(([kind]) => kind))];
  facts.push(...flags.map((kind) => make('span', { class: 'flag' }, KINDS[kind].join(' '))));
  const actions = make('div', { class: 'actions', role: 'group', 'aria-label': `Decide on ${row.code}` });
  item.append(make('div', { class: 'facts' }, name, ...facts), actions);
  item.append(
    make(
      'p',
      { class: 'title', dir: 'auto' },
      row.title || (row.status === 'added' ? 'not among the codes of this page' : 'no title in the release'),
    ),
  );
  if (!row.title) item.lastChild.classList.add('quiet');
  const quotes = row.quotes.map((quote, i) => quoteElement(row, quote, i));
  if (quotes.length) item.append(make('ul', { class: 'quotes' }, ...quotes));
  const details = row.flags
    .filter(([kind]) => kind !== 'ungrounded')
    .map(([kind, detail]) => make('li', {}, `${KINDS[kind][1]}: `, make('bdi', {}, detail)));
  if (details.length) item.append(make('ul', { class: 'details' }, ...details));
  const label = `${row.code}, ${word}`;
  if (row.status === 'added') {
    actions.append(action('remove', `Remove ${label}`, 'Remove'));
  } else {
    const accept = action('accept', `Accept ${label}`, 'Accept');
    if (row.malformed) {
      accept.disabled = true;
      accept.title = `${row.code} has not the form of ${row.system}`;
    }
    actions.append(accept, action('reject', `Reject ${label}`, 'Reject'));
  }
  fillVerdict(item, reviews.of(note).verdicts[row.key]);
  return item;
}

function action(name, label, words) {
  return make('button', { type: 'button', class: `action ${name}`, 'aria-label': label }, words);
}

function quoteElement(row, quote, i) {
  const by = make('span', { class: 'by' }, quote.by.join(' and '));
  const words = quote.text ?? sliceWords(state.note.text, state.offsets, quote.parts);
  const shown = make('bdi', {}, `\u201c${visible(words)}\u201d`);
  if (!quote.parts.length)
    return make('li', {}, shown, ' ', by, ' ', make('span', { class: 'flag' }, '\u26a0 not in the note'));
  const link = make('button', { type: 'button', class: 'quote' }, shown);
  link.quote = `${row.key} ${i}`;
  return make(
    'li',
    {},
    link,
    ' ',
    by,
    quote.inexact ? make('span', { class: 'by' }, ' (up to case and punctuation)') : '',
  );
}

function fillVerdict(item, verdict) {
  item.classList.toggle('accepted', verdict === 'accepted');
  item.classList.toggle('rejected', verdict === 'rejected');
  item.querySelector('.accept')?.setAttribute('aria-pressed', String(verdict === 'accepted'));
  item.querySelector('.reject')?.setAttribute('aria-pressed', String(verdict === 'rejected'));
}

function showCodes() {
  const rows = shownRows(state.note);
  const total = allRows(state.note).length;
  $('codes').replaceChildren(...rows.map(rowElement));
  $('codes-heading').textContent = many(total, 'code');
  const line = $('hidden-codes');
  line.hidden = !isFiltered() || (total === rows.length && !state.all);
  if (!line.hidden) {
    const words = state.all ? 'Only what the filter lets through' : `Show ${total - rows.length} more`;
    const toggle = make('button', { type: 'button', class: 'plain', id: 'toggle-hidden' }, words);
    line.replaceChildren(
      state.all ? 'All codes of the note are shown. ' : `${many(total - rows.length, 'code')} left out by the filter. `,
      toggle,
    );
  }
  markCurrent();
}

function rowElements() {
  return [...$('codes').children];
}

function markCurrent() {
  for (const item of rowElements()) {
    const isCurrent = item.dataset.key === state.key;
    item.classList.toggle('current', isCurrent);
    if (isCurrent) item.querySelector('.code').setAttribute('aria-current', 'true');
    else item.querySelector('.code').removeAttribute('aria-current');
  }
}

// ---- Going from one thing to another

function say(words) {
  $('status').textContent = words;
}

function showNote(note, key = null) {
  state.note = note;
  state.offsets = new Offsets(note.text);
  state.all = state.all && isFiltered();
  pick(null);
  say('');
  $('note-heading').textContent = visible(note.id);
  const place = state.shown.indexOf(note);
  $('note-facts').textContent = [
    place < 0
      ? 'not among the notes that the filter shows'
      : `${(place + 1).toLocaleString('en')} of ${state.shown.length.toLocaleString('en')}`,
    note.group !== note.id ? `group ${note.group}` : '',
    tally(note.rows),
  ]
    .filter(Boolean)
    .join(' \u00b7 ');
  $('note-text').lang = note.language ?? '';
  $('note').scrollTop = 0;
  $('codes-scroll').scrollTop = 0;
  const rows = shownRows(note);
  if (key && !rows.some((row) => row.key === key) && allRows(note).some((row) => row.key === key)) state.all = true;
  state.key = null;
  showText();
  showCodes();
  for (const link of $('list').querySelectorAll('a[aria-current]')) {
    link.removeAttribute('aria-current');
    link.tabIndex = -1;
  }
  const link = entryOf(note).querySelector('a');
  link.setAttribute('aria-current', 'true');
  link.tabIndex = 0;
  if (place >= 0) link.scrollIntoView({ block: 'nearest' });
  document.body.classList.remove('list-open');
  $('show-list').setAttribute('aria-expanded', 'false');
  showProgress();
  choose(key ?? shownRows(note)[0]?.key ?? null);
}

function choose(key, { focus = false, quote = null } = {}) {
  state.key = key;
  markCurrent();
  pointOut(quote);
  const item = rowElements().find((other) => other.dataset.key === key);
  if (item) {
    item.scrollIntoView({ block: 'nearest' });
    if (focus) item.querySelector('.code').focus({ preventScroll: true });
  }
  writeHash();
}

function stepNote(by) {
  const place = state.shown.indexOf(state.note);
  // From a note that the filter leaves out, to the nearest one that it shows.
  const next =
    place >= 0
      ? state.shown[place + by]
      : by > 0
        ? state.shown.find((n) => n.index > state.note.index)
        : state.shown.findLast((n) => n.index < state.note.index);
  if (!next) return say(by > 0 ? 'This is the last note.' : 'This is the first note.');
  showNote(next);
  $('note-heading').focus({ preventScroll: true });
}

function stepCode(by) {
  const keys = rowElements().map((item) => item.dataset.key);
  const place = keys.indexOf(state.key);
  const next = keys[place < 0 ? (by > 0 ? 0 : keys.length - 1) : place + by];
  if (next === undefined)
    return say(by > 0 ? 'This is the last code of the note.' : 'This is the first code of the note.');
  choose(next, { focus: true });
}

function writeHash() {
  const row = allRows(state.note).find((other) => other.key === state.key);
  const parts = {
    note: state.note.id,
    code: row ? (row.system === SYSTEMS[0] ? row.code : row.key) : '',
    ...prefixed(state.filter),
  };
  const hash = new URLSearchParams(Object.entries(parts).filter(([, value]) => value));
  try {
    history.replaceState(null, '', `#${hash}`);
  } catch {
    // Safari refuses more than 100 in 30 seconds, as when a key is held down; the next step writes the address again.
  }
}

function prefixed(filter) {
  return { show: filter.kind, prefix: filter.code, stratum: filter.stratum, name: filter.id };
}

function readHash() {
  const hash = new URLSearchParams(location.hash.slice(1));
  const note = NOTES_BY_ID.get(hash.get('note'));
  // A link of the list names a note alone, and leaves the filter as it is.
  if ([...hash.keys()].some((key) => key in prefixed(state.filter))) {
    state.filter = {
      kind: hash.get('show') ?? '',
      code: hash.get('prefix') ?? '',
      stratum: hash.get('stratum') ?? '',
      id: hash.get('name') ?? '',
    };
  }
  fillFilter();
  applyFilter();
  const code = hash.get('code');
  const row = note && code ? allRows(note).find((other) => other.code === code || other.key === code) : null;
  showNote(note ?? (state.shown.includes(state.note) ? state.note : (state.shown[0] ?? state.note)), row?.key ?? null);
}
