// ---- The frame

function fillFrame() {
  $('title').textContent = DATA.title;
  const rows = NOTES.flatMap((note) => note.rows);
  const flagged = rows.filter((row) => row.flags.length).length.toLocaleString('en');
  $('tally').textContent =
    `${many(NOTES.length, 'note')} \u00b7 ${many(rows.length, 'code')}: ${tally(rows)} \u00b7 ${flagged} flagged`;
  $('banner').textContent = DATA.banner;
  $('banner').hidden = !DATA.banner;
  const option = (value, words) => make('option', { value }, words);
  const count = (kind) => rows.filter((row) => row.kinds.has(kind)).length;
  const kinds = Object.keys(KINDS).filter((kind) => kind !== 'added' && count(kind));
  const group = (label, of) =>
    make(
      'optgroup',
      { label },
      ...of.map((kind) => option(kind, `${KINDS[kind][1]} (${count(kind).toLocaleString('en')})`)),
    );
  const flags = kinds.filter((kind) => !JUDGEMENTS.includes(kind));
  $('filter-kind').append(
    option('', 'any code or none'),
    group(
      'Judged',
      kinds.filter((kind) => JUDGEMENTS.includes(kind)),
    ),
  );
  if (flags.length) $('filter-kind').append(group('Flagged', flags));
  $('filter-kind').append(
    make('optgroup', { label: 'Reviewed' }, ...Object.entries(REVIEW_FILTERS).map((pair) => option(...pair))),
  );
  const strata = [...new Set(DATA.codes.map((item) => item.stratum).filter(Boolean))].sort();
  $('stratum-label').hidden = !strata.length;
  $('filter-stratum').append(option('', 'all'), ...strata.map((stratum) => option(stratum, stratum)));
  $('add-system').append(...SYSTEMS.map((system) => option(system, system)));
  $('system-label').hidden = SYSTEMS.length < 2;
  const known = DATA.codes.filter((item) => !item.malformed).sort((a, b) => (a.code < b.code ? -1 : 1));
  $('known-codes').append(...known.map((item) => make('option', { value: item.code, label: item.title })));
  const legend = [
    ['predicted', 'predicted'],
    ...(DATA.judged ? [['gold', 'gold']] : []),
    ['reviewer', 'added'],
    ['current', 'chosen code'],
  ];
  $('key').append('Words: ', ...legend.flatMap(([kind, words]) => [make('mark', { class: kind }, words), ' ']));
  $('figures').hidden = !DATA.figures.length;
  $('figures').addEventListener('toggle', () => {
    $('figures')
      .querySelector('.figures')
      .replaceChildren(
        ...DATA.figures.map((figure) =>
          make(
            'figure',
            {},
            make('figcaption', {}, figure.title),
            make('img', { src: `data:image/png;base64,${figure.png}`, alt: figure.alt }),
          ),
        ),
      );
  });
}

function fillFilter() {
  const { kind, code, stratum, id } = state.filter;
  $('filter-kind').value = kind;
  $('filter-code').value = code;
  $('filter-stratum').value = stratum;
  $('filter-id').value = id;
}

function refilter() {
  state.filter = {
    kind: $('filter-kind').value,
    code: $('filter-code').value.trim(),
    stratum: $('filter-stratum').value,
    id: $('filter-id').value.trim(),
  };
  state.all = false;
  applyFilter();
  const stays = state.shown.includes(state.note) || !state.shown.length;
  showNote(stays ? state.note : state.shown[0]);
}

const KEYS = {
  j: () => stepNote(1),
  k: () => stepNote(-1),
  n: () => stepCode(1),
  p: () => stepCode(-1),
  a: () => decideByKey('accepted'),
  r: () => decideByKey('rejected'),
  A: acceptRest,
  '+': () => $('add-code').focus(),
  i: () => $('add-code').focus(),
  u: undo,
  e: openExport,
  '/': () => $('filter-code').focus(),
  '?': () => $('help-dialog').showModal(),
};

function onKey(event) {
  const { target } = event;
  // The shift key tells 'A' from 'a', whatever caps lock says.
  const key = /^[a-z]$/i.test(event.key) ? event.key[event.shiftKey ? 'toUpperCase' : 'toLowerCase']() : event.key;
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector('dialog[open]')) return;
  if (event.key === 'Escape' && target.closest('form')) return void $('note').focus({ preventScroll: true });
  if (target.matches('input, select, textarea')) return;
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (step && $('codes-pane').contains(target)) {
    event.preventDefault();
    stepCode(step);
  } else if (step && $('list').contains(target)) {
    event.preventDefault();
    stepNote(step);
    entryOf(state.note).querySelector('a').focus();
  } else if (state.singleKeys && Object.hasOwn(KEYS, key)) {
    event.preventDefault();
    KEYS[key]();
  }
}

function listen() {
  const on = (id, kind, act) => $(id).addEventListener(kind, act);
  addEventListener('keydown', onKey);
  addEventListener('hashchange', readHash);
  addEventListener('beforeunload', (event) => {
    if (reviews.atRisk) event.preventDefault();
  });
  // Another tab with the same page decided something.
  addEventListener('storage', (event) => {
    if (event.key !== reviews.storageKey) return;
    reviews.load();
    for (const note of entries.keys()) fillProgress(note);
    showNote(state.note, state.key);
  });
  for (const id of ['filter-code', 'filter-id']) on(id, 'input', refilter);
  for (const id of ['filter-kind', 'filter-stratum']) on(id, 'change', refilter);
  on('filter', 'submit', (event) => event.preventDefault());
  on('clear', 'click', () => {
    state.filter = { kind: '', code: '', stratum: '', id: '' };
    fillFilter();
    refilter();
    $('filter-kind').focus();
  });
  on('hidden-codes', 'click', (event) => {
    if (event.target.id !== 'toggle-hidden') return;
    state.all = !state.all;
    showCodes();
    $('toggle-hidden')?.focus();
  });
  on('codes', 'click', (event) => {
    const item = event.target.closest('.row');
    const button = event.target.closest('button');
    if (!item) return;
    const { key } = item.dataset;
    if (button?.matches('.accept, .reject, .remove')) {
      choose(key);
      decide(button.matches('.accept') ? 'accepted' : 'rejected', key);
    } else if (getSelection().isCollapsed) {
      choose(key, { quote: button?.quote ?? null });
    }
  });
  on('note-text', 'click', (event) => {
    const mark = event.target.closest('mark');
    if (!mark || !getSelection().isCollapsed) return;
    // Where several codes share the words, each click goes to the next of them.
    const key = mark.keys[(mark.keys.indexOf(state.key) + 1) % mark.keys.length];
    if (!rowElements().some((item) => item.dataset.key === key)) {
      state.all = true;
      showCodes();
    }
    const top = $('note').scrollTop;
    choose(key);
    $('note').scrollTop = top; // The reader's place is where the click was.
    say(mark.keys.length > 1 ? `${mark.keys.length} codes have these words; click again for the next.` : '');
  });
  document.addEventListener('selectionchange', () => {
    const parts = selectedParts();
    if (parts.length) pick(parts);
  });
  on('add-words', 'input', () => {
    const found = findWords(state.note.text, $('add-words').value);
    state.picked = found ? [[state.offsets.toPoint(found[0]), state.offsets.toPoint(found[1], true)]] : null;
    showPicked();
  });
  on('add', 'submit', (event) => {
    event.preventDefault();
    addCode();
  });
  on('accept-rest', 'click', acceptRest);
  on('previous-note', 'click', () => stepNote(-1));
  on('next-note', 'click', () => stepNote(1));
  on('undo', 'click', undo);
  on('export', 'click', openExport);
  on('export-save', 'click', saveExport);
  on('import', 'click', () => $('import-file').click());
  on('import-file', 'change', () => {
    const [file] = $('import-file').files;
    if (file) importFile(file);
    $('import-file').value = '';
  });
  on('help', 'click', () => $('help-dialog').showModal());
  on('skip', 'click', () => $('note-heading').focus());
  on('show-list', 'click', () => {
    const isOpen = document.body.classList.toggle('list-open');
    $('show-list').setAttribute('aria-expanded', String(isOpen));
  });
  on('single-keys', 'change', () => {
    state.singleKeys = $('single-keys').checked;
    try {
      localStorage.setItem(SHORTCUTS_KEY, state.singleKeys ? 'on' : 'off');
    } catch {
      // It then holds until the page closes.
    }
  });
}

function start() {
  try {
    state.singleKeys = localStorage.getItem(SHORTCUTS_KEY) !== 'off';
  } catch {
    // Without storage, single keys act.
  }
  $('single-keys').checked = state.singleKeys;
  fillFrame();
  listen();
  $('app').hidden = false;
  readHash();
}

start();
