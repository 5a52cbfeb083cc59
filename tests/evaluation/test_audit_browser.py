"""The audit page in headless Chromium, used as a reviewer uses it; what it exports is read by the JSONL source."""

import json
import random
import shutil
import time

import pytest

from ccl_jax.evaluation.audit import audit_page, write_audit_page
from ccl_jax.evaluation.flags import Flag
from ccl_jax.evaluation.strata import Strata
from ccl_jax.icd.codes import ICD9CM, ICD10CM, SYSTEMS, is_well_formed, normalize_code
from ccl_jax.records import Annotation, Document, Evidence, PredictedCode, Prediction, slice_evidence
from ccl_jax.sources.jsonl import read_documents
from ccl_jax.sources.report import SourceReport

webdriver = pytest.importorskip('selenium.webdriver', reason="the audit page's tests need selenium")
By = pytest.importorskip('selenium.webdriver.common.by').By
Keys = pytest.importorskip('selenium.webdriver.common.keys').Keys

TITLES = {
    'I10': 'Essential hypertension',
    'R52': 'Pain, unspecified',
    'R07.9': 'Chest pain, unspecified',
    'R50.9': 'Fever',
}
HOSTILE = 'Pain <script>window.ran = true</script> </textarea></script><!-- <img src=x onerror="window.ran=true"> &amp;'
# U+1F600 and U+1D49C are two UTF-16 units each, U+05D0 runs from right to left.
ASTRAL = '\U0001f600\U0001d49c Known HTN. \U0001f9e0 Now chest pain \U0001f600 and fever. \u05d0\u05d1 \U0001d49c'


@pytest.fixture(scope='module')
def browser(tmp_path_factory):
    chromium = shutil.which('chromium') or shutil.which('google-chrome')
    driver = shutil.which('chromedriver')
    if not chromium or not driver:
        pytest.skip('the audit page is tested in Chromium: install chromium and chromium-driver')
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    # The sandbox does not start for root, nor in most containers; shared memory is small there.
    for argument in ('--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'):
        options.add_argument(argument)
    downloads = tmp_path_factory.mktemp('downloads')
    options.add_experimental_option('prefs', {'download.default_directory': str(downloads)})
    options.set_capability('goog:loggingPrefs', {'browser': 'ALL'})
    session = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    session.downloads = downloads
    session.set_window_size(1400, 900)
    try:
        yield session
    finally:
        session.quit()


class Page:
    """A page in the browser, by the words of what a reviewer does."""

    def __init__(self, browser, path, hash_=''):
        self.browser, self.path = browser, path
        # Another document first: a change of the hash alone would not load the page again.
        browser.get('about:blank')
        browser.get(path.as_uri() + hash_)

    def run(self, script, *arguments):
        return self.browser.execute_script(script, *arguments)

    def find(self, selector):
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def find_all(self, selector):
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def press(self, keys):
        for key in keys:
            self.browser.switch_to.active_element.send_keys(key)

    def row(self, code, system=ICD10CM):
        return self.find(f'.row[data-key="{system} {code}"]')

    def shown_codes(self):
        return [row.get_attribute('data-key').split()[1] for row in self.find_all('.row')]

    def verdicts(self):
        """Code -> the pressed button of its row; '' for none."""
        return self.run("""return Object.fromEntries([...document.querySelectorAll('.row')].map((row) => [
            row.dataset.key.split(' ')[1], row.querySelector('[aria-pressed=true]')?.textContent ?? '']))""")

    def current(self):
        """(heading of the note, the chosen code)."""
        return self.find('#note-heading').text, self.find('.row.current .code').text

    def marked(self, kind='current'):
        return [mark.text for mark in self.find_all(f'#note-text mark.{kind}')]

    def says(self):
        return self.find('#status').text

    def select_words(self, text, begin, end):
        """Selects text[begin:end] of the note as a mouse would; begin and end are positions of the Python string."""
        self.select_units(units(text[:begin]), units(text[:end]))

    def select_units(self, begin, end):
        self.run(
            """const find = (unit) => {
                 const walker = document.createTreeWalker(document.getElementById('note-text'), NodeFilter.SHOW_TEXT);
                 for (let node; (node = walker.nextNode()); unit -= node.length) {
                   if (unit <= node.length) return [node, unit];
                 }
               };
               getSelection().setBaseAndExtent(...find(arguments[0]), ...find(arguments[1]));
               document.dispatchEvent(new Event('selectionchange'));""",
            begin,
            end,
        )

    def add(self, code):
        self.find('#add-code').send_keys(code, Keys.ENTER)

    def export(self, keep_undecided=False):
        for old in self.browser.downloads.iterdir():
            old.unlink()
        self.find('#export').click()
        if self.find('#keep-undecided').is_selected() != keep_undecided:
            self.find('#keep-undecided').click()
        self.find('#export-save').click()
        for _ in range(200):
            files = list(self.browser.downloads.iterdir())
            # Chromium reserves the name with an empty file, fills one named .crdownload, and renames that.
            if len(files) == 1 and files[0].suffix == '.jsonl' and files[0].stat().st_size:
                return files[0]
            time.sleep(0.05)
        raise AssertionError(f'the download did not end; the folder has {[file.name for file in files]}')


def units(text):
    return len(text.encode('utf-16-le')) // 2


def read_back(path):
    return list(read_documents(path, report=SourceReport('jsonl')))


@pytest.fixture
def open_page(browser, tmp_path):
    def open_page(documents, predictions, hash_='', **arguments):
        path = tmp_path / 'audit.html'
        arguments = {'title': 'Notes, dev', 'title_of': TITLES.get, **arguments}
        write_audit_page(path, audit_page(documents, predictions, **arguments))
        return Page(browser, path, hash_)

    yield open_page
    browser.execute_script('localStorage.clear()')
    # Refusals of the content security policy and errors of the script are logged here.
    assert browser.get_log('browser') == []


def reviewed_case():
    text = ASTRAL

    def quote(words):
        begin = text.index(words)
        return Evidence(((begin, begin + len(words)),), words)

    gold = (Annotation('I10', evidence=(quote('HTN'),)), Annotation('R50.9', evidence=(quote('fever'),)))
    predicted = (
        PredictedCode('I10', score=0.9, evidence=(quote('Known HTN'), Evidence((), 'no such words'))),
        PredictedCode('R52', evidence=(quote('pain'),)),
        PredictedCode('ZZZ'),
    )
    documents = [
        Document('a/1', text, gold, group_id='p', split='dev'),
        Document('b & 2', 'Pain.', (Annotation('R52'),)),
    ]
    return documents, [Prediction('a/1', predicted)]


def test_a_code_is_looked_at_rejected_another_added_and_the_export_read_back(open_page):
    page = open_page(*reviewed_case())
    page.row('R52').find_element(By.CSS_SELECTOR, '.code').click()
    assert page.marked() == ['pain']
    mark = page.find('mark.current')
    assert mark.value_of_css_property('background-color') == 'rgba(255, 216, 77, 1)'
    page.row('R52').find_element(By.CSS_SELECTOR, '.reject').click()
    assert page.says() == 'R52 rejected.'
    page.row('I10').find_element(By.CSS_SELECTOR, '.accept').click()
    begin = ASTRAL.index('chest')
    page.select_words(ASTRAL, begin - 1, begin + len('chest pain \U0001f600'))
    assert page.find('#add-words').get_attribute('value') == 'chest pain \U0001f600'
    page.add('r079')
    assert page.marked() == ['chest ', 'pain', ' \U0001f600']
    assert page.verdicts() == {'I10': 'Accept', 'R52': 'Reject', 'ZZZ': '', 'R50.9': '', 'R07.9': ''}

    path = page.export()
    assert path.name == 'notes-dev-reviewed.jsonl'
    (document,) = read_back(path)
    hypertension = (ASTRAL.index('Known HTN'), ASTRAL.index('HTN'), ASTRAL.index('HTN') + 3)
    known, htn, end = hypertension
    assert document == Document(
        'a/1',
        ASTRAL,
        (
            Annotation('I10', evidence=(Evidence(((known, end),), 'Known HTN'), Evidence(((htn, end),), 'HTN'))),
            Annotation('R07.9', evidence=(Evidence(((begin, begin + 12),), 'chest pain \U0001f600'),)),
        ),
        group_id='p',
        source='jsonl',
        split='dev',
    )
    review = json.loads(path.read_text(encoding='utf-8'))['review']
    assert review['rejected'] == [{'code': 'R52', 'system': ICD10CM}]


def test_undecided_codes_are_exported_only_on_request_and_malformed_ones_never(open_page):
    page = open_page(*reviewed_case())
    page.row('R52').find_element(By.CSS_SELECTOR, '.reject').click()
    assert read_back(page.export())[0].codes == set()
    assert read_back(page.export(keep_undecided=True))[0].codes == {'I10'}
    assert page.row('ZZZ').find_element(By.CSS_SELECTOR, '.accept').get_property('disabled')


def test_text_of_a_note_shows_as_text(open_page):
    text = f'{HOSTILE}\n\u202e \x00\x07 \u05d0\u05d1\u05d2 \x85 end'
    code = PredictedCode('X<b>9', evidence=(Evidence((), '<i>x</i>'), Evidence(((0, 30),), text[0:30])))
    page = open_page(
        [Document('<b>d</b>', text, language='"><i>')], [Prediction('<b>d</b>', (code,))], title='<u>t</u>'
    )
    assert page.run('return window.ran') is None
    assert page.run("return document.querySelectorAll('#app :is(script, img, i, b, u, textarea)').length") == 0
    # Control characters are shown as pictures of themselves.
    shown = text.replace('\x00', '\u2400').replace('\x07', '\u2407').replace('\x85', '\ufffd')
    assert page.run("return document.getElementById('note-text').textContent") == shown
    assert page.find('#note-heading').text == '<b>d</b>'
    assert page.marked() == [text[0:30]]
    assert '\u201c<i>x</i>\u201d' in page.find('.row').text
    assert 'not in the note' in page.find('.row').text


def random_cases(count):
    """Notes of one and two unit characters with overlapping evidence of several parts."""
    rng = random.Random(7)
    documents, predictions = [], []
    for n in range(count):
        text = ''.join(rng.choices('ab \n\U0001f600\U0001d49c\u05d0', k=40)) + 'x'

        def evidence(text=text):
            cuts = sorted(rng.sample(range(len(text) + 1), 2 * rng.randint(1, 2)))
            parts = tuple(zip(cuts[::2], cuts[1::2], strict=True))
            return Evidence(parts, slice_evidence(text, parts))

        documents.append(Document(f'd{n:02}', text, (Annotation('I10', evidence=(evidence(), evidence())),)))
        predicted = (
            PredictedCode('I10', evidence=(evidence(),)),
            PredictedCode('R52', evidence=(evidence(), evidence())),
        )
        predictions.append(Prediction(f'd{n:02}', predicted))
    return documents, predictions


def test_highlights_cover_the_words_of_their_code(open_page):
    documents, predictions = random_cases(30)
    page = open_page(documents, predictions)
    shown = page.run("""return NOTES.map((note) => { showNote(note); return [
        document.getElementById('note-text').textContent,
        [...document.querySelectorAll('#note-text mark')].map((mark) => [mark.textContent, mark.keys])]; })""")
    for document, prediction, (text, marks) in zip(documents, predictions, shown, strict=True):
        assert text == document.text
        for code in ('I10', 'R52'):
            positions = set()
            for item in (*document.annotations, *prediction.codes):
                if item.code == code:
                    positions.update(i for e in item.evidence for part in e.parts for i in range(*part))
            expected = ''.join(document.text[i] for i in sorted(positions))
            assert ''.join(words for words, keys in marks if f'{ICD10CM} {code}' in keys) == expected


def test_selected_words_become_the_offsets_that_python_counts(open_page):
    documents, predictions = random_cases(8)
    page = open_page(documents, predictions)
    rng = random.Random(8)
    for index, document in enumerate(documents):
        page.run('showNote(NOTES[arguments[0]])', index)
        for _ in range(4):
            begin, end = sorted(rng.sample(range(len(document.text) + 1), 2))
            page.run('pick(null)')
            page.select_words(document.text, begin, end)
            words = document.text[begin:end].strip()
            first = begin + document.text[begin:end].index(words)
            expected = [[first, first + len(words)]] if words else None
            assert page.run('return state.picked') == expected


def test_a_selection_that_cuts_a_letter_in_two_takes_it_whole(open_page):
    page = open_page([Document('d', '\U0001f600\U0001d49c\U0001f9e0')], [])
    page.select_units(1, 3)
    assert page.run('return state.picked') == [[0, 2]]


def test_words_can_be_typed_instead_of_selected(open_page):
    page = open_page(*reviewed_case())
    page.find('#add-words').send_keys('CHEST  pain')
    page.add('chest pain unspecified')
    assert 'no code of this page has these words' in page.find('#add-error').text
    page.find('#add-code').clear()
    page.add('R07.9')
    begin = ASTRAL.index('chest')
    (document,) = read_back(page.export())
    assert document.annotations == (Annotation('R07.9', evidence=(Evidence(((begin, begin + 10),), 'chest pain'),)),)
    page.find('#add-words').send_keys('not there')
    page.add('R52')
    assert 'not in the note' in page.find('#add-error').text


def test_a_code_can_be_named_by_its_title_and_a_predicted_one_gets_further_words(open_page):
    page = open_page(*reviewed_case())
    page.find('#add-words').send_keys('fever')
    page.add('pain unspecified')
    assert page.verdicts()['R52'] == 'Accept'
    (document,) = read_back(page.export())
    assert [evidence.text for evidence in document.annotations[0].evidence] == ['pain', 'fever']
    # Its rejection takes the added words along.
    page.row('R52').find_element(By.CSS_SELECTOR, '.reject').click()
    assert read_back(page.export())[0].annotations == ()


def test_the_keyboard_alone_reviews(open_page):
    page = open_page(*reviewed_case())
    assert page.current() == ('a/1', 'I10')
    page.press('a')
    assert page.current() == ('a/1', 'R52')
    page.press('r')
    assert page.current() == ('a/1', 'ZZZ')
    page.press('r' + 'a')
    assert page.verdicts() == {'I10': 'Accept', 'R52': 'Reject', 'ZZZ': 'Reject', 'R50.9': 'Accept'}
    page.press('uu')
    assert page.verdicts() == {'I10': 'Accept', 'R52': 'Reject', 'ZZZ': '', 'R50.9': ''}
    page.press('pp' + Keys.ARROW_DOWN)
    assert page.browser.switch_to.active_element.text == page.current()[1]
    page.press('j')
    assert page.current() == ('b & 2', 'R52')
    page.press('j')
    assert page.says() == 'This is the last note.'
    page.press('i')
    page.press('jar')
    assert page.find('#add-code').get_attribute('value') == 'jar'
    assert page.find('#note-heading').text == 'b & 2'
    page.press([Keys.ESCAPE])
    page.press('k')
    assert page.find('#note-heading').text == 'a/1'
    page.press('?')
    assert page.find('#help-dialog').is_displayed()
    page.press([Keys.ESCAPE])
    page.press('A')
    assert page.verdicts()['I10'] == 'Accept'
    page.press('e')
    assert 'that are not decided: 0.' in page.find('#export-summary').text
    page.press([Keys.ESCAPE])
    page.run("document.getElementById('single-keys').click()")
    page.press('j')
    assert page.find('#note-heading').text == 'a/1'


def test_decisions_outlive_a_reload_and_go_to_another_browser_by_file(open_page):
    page = open_page(*reviewed_case())
    page.row('I10').find_element(By.CSS_SELECTOR, '.accept').click()
    page.select_words(ASTRAL, 0, 2)
    page.add('R07.9')
    page = open_page(*reviewed_case())
    before = page.verdicts()
    assert before == {'I10': 'Accept', 'R52': '', 'ZZZ': '', 'R50.9': '', 'R07.9': ''}
    exported = page.export()
    first = exported.read_text(encoding='utf-8')
    page.run('localStorage.clear()')
    page = open_page(*reviewed_case())
    assert page.verdicts() == {'I10': '', 'R52': '', 'ZZZ': '', 'R50.9': ''}
    strange = exported.with_name('strange.txt')
    strange.write_text(first + '{"doc_id": "a/1", "text": "other", "review": {}}\nnonsense\n', encoding='utf-8')
    page.find('#import-file').send_keys(str(strange))
    assert wait_for(page.says) == 'Decisions on 1 note taken over; 2 lines left out: not an export of this page.'
    assert page.verdicts() == before
    assert page.export().read_text(encoding='utf-8') == first


def test_two_tabs_of_a_page_see_the_same_decisions(open_page, browser):
    page = open_page(*reviewed_case())
    first = browser.current_window_handle
    browser.switch_to.new_window('tab')
    second = browser.current_window_handle
    try:
        other = Page(browser, page.path)
        other.row('R52').find_element(By.CSS_SELECTOR, '.reject').click()
        browser.switch_to.window(first)
        assert wait_for(lambda: page.verdicts()['R52']) == 'Reject'
    finally:
        browser.switch_to.window(second)
        browser.close()
        browser.switch_to.window(first)


def wait_for(read):
    for _ in range(600):
        if read():
            return read()
        time.sleep(0.05)
    return ''


def test_a_browser_that_keeps_nothing_is_said_and_guarded(open_page, browser):
    refuse = 'Storage.prototype.setItem = () => { throw new Error("refused"); };'
    script = browser.execute_cdp_cmd('Page.addScriptToEvaluateOnNewDocument', {'source': refuse})
    leave = """const event = new Event('beforeunload', { cancelable: true }); dispatchEvent(event);
        return event.defaultPrevented"""
    try:
        page = open_page(*reviewed_case())
        assert 'lost when it closes' in page.find('#unsaved').text
        assert not page.run(leave)
        page.row('I10').find_element(By.CSS_SELECTOR, '.accept').click()
        assert page.run(leave)
        page.export()
        assert not page.run(leave)
    finally:
        browser.execute_cdp_cmd('Page.removeScriptToEvaluateOnNewDocument', script)
    page = open_page(*reviewed_case())
    page.row('I10').find_element(By.CSS_SELECTOR, '.accept').click()
    assert not page.find('#unsaved').is_displayed()
    assert not page.run(leave)


def filter_case():
    rng = random.Random(3)
    codes = ['I10', 'I11.0', 'R52', 'R07.9', 'E11.9']
    documents, predictions, flags = [], [], {}
    for n in range(30):
        documents.append(Document(f'd{n:02}', 'x', tuple(map(Annotation, rng.sample(codes, 2)))))
        predictions.append(Prediction(f'd{n:02}', tuple(map(PredictedCode, rng.sample(codes, 2)))))
        if n % 5 == 0:
            flags[f'd{n:02}'] = {(ICD10CM, predictions[-1].codes[0].code): (Flag('excludes1', 'not beside it'),)}
    strata = Strata(frozenset({(ICD10CM, 'I10'), (ICD10CM, 'R52')}), frozenset(), frozenset())
    return documents, predictions, flags, strata


@pytest.mark.parametrize(
    'wanted',
    [
        {'kind': 'wrong', 'code': 'i1'},
        {'kind': 'missed', 'stratum': 'S0'},
        {'kind': 'excludes1'},
        {'code': 'r07', 'id': 'D1'},
    ],
)
def test_filters_show_the_notes_that_have_such_a_code(open_page, wanted):
    documents, predictions, flags, strata = filter_case()
    expected = {}
    for document, prediction in zip(documents, predictions, strict=True):
        gold, predicted = [a.code for a in document.annotations], [c.code for c in prediction.codes]
        kinds = dict.fromkeys(gold, 'missed') | {c: 'correct' if c in gold else 'wrong' for c in predicted}
        kept = [
            code
            for code, kind in kinds.items()
            if wanted.get('kind')
            in (None, kind, *(f.kind for f in flags.get(document.doc_id, {}).get((ICD10CM, code), ())))
            and code.replace('.', '').startswith(wanted.get('code', '').upper())
            and wanted.get('stratum') in (None, strata.stratum((ICD10CM, code)))
        ]
        if kept and wanted.get('id', '').lower() in document.doc_id:
            expected[document.doc_id] = set(kept)
    assert 0 < len(expected) < 30
    page = open_page(documents, predictions, flags=flags, strata=strata)
    for name, value in wanted.items():
        if name in ('code', 'id'):
            page.find(f'#filter-{name}').send_keys(value)
        else:
            page.find(f'#filter-{name} option[value="{value}"]').click()
    assert page.find('#shown').text == f'{len(expected)} of 30 notes'
    assert [name.text for name in page.find_all('#list .name')] == list(expected)
    for _ in expected:
        assert set(page.shown_codes()) == expected[page.find('#note-heading').text]
        page.run('stepNote(1)')
    # The address leads back to what is shown.
    address = page.run('return location.hash')
    current = page.current()
    page = open_page(documents, predictions, address, flags=flags, strata=strata)
    assert page.find('#shown').text == f'{len(expected)} of 30 notes'
    assert page.current() == current


def test_a_link_leads_to_a_note_and_a_code(open_page):
    page = open_page(*reviewed_case(), '#note=a%2F1&code=R50.9')
    assert page.current() == ('a/1', 'R50.9')
    assert page.marked() == ['fever']
    page.find('#list li:nth-child(2) a').click()
    assert page.current() == ('b & 2', 'R52')
    page.browser.back()
    assert page.current() == ('a/1', 'R50.9')


def test_words_of_the_note_lead_to_their_codes_in_turn(open_page):
    evidence = (Evidence(((0, 4),), 'Pain'),)
    codes = tuple(PredictedCode(code, evidence=evidence) for code in ('I10', 'R52'))
    page = open_page([Document('d', 'Pain. Fever.')], [Prediction('d', (PredictedCode('R50.9'), *codes))])
    for code in ('I10', 'R52', 'I10'):
        page.find('#note-text mark').click()
        assert page.current() == ('d', code)


def test_without_gold_nothing_is_judged(open_page):
    page = open_page(*reviewed_case(), judged=False)
    words = page.find('#app').text
    assert '3 codes: 3 predicted' in words
    assert not any(word in words for word in ('missed', 'correct', 'wrong', 'gold'))
    options = [option.text for option in page.find_all('#filter-kind option')]
    assert options == [
        'any code or none',
        'predicted (3)',
        'ungrounded (1)',
        'undecided',
        'accepted',
        'rejected',
        'added',
    ]


def test_figures_are_shown_on_demand(open_page):
    pixel = bytes.fromhex(
        '89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c636060606000000005000'
        '1a5f645400000000049454e44ae426082'
    )
    page = open_page([Document('d', 'x')], [], figures=[('Calibration', pixel, 'a line')])
    page.find('#figures summary').click()
    assert wait_for(lambda: page.run("return document.querySelector('figure img')?.naturalWidth")) == 1
    assert page.find('figure img').get_attribute('alt') == 'a line'


def test_codes_have_the_forms_that_python_gives_them(open_page):
    page = open_page([Document('d', 'x', (Annotation('401.9', ICD9CM),))], [])
    rng = random.Random(5)
    cases = [
        (''.join(rng.choices('AEVUIO0129.x ', k=rng.randint(0, 8))), system) for _ in range(400) for system in SYSTEMS
    ]
    found = page.run(
        """return arguments[0].map(([typed, system]) => {
             const code = normalizeCode(typed, system);
             return [code, isWellFormed(code, system, DATA.forms)];
           })""",
        cases,
    )
    expected = [normalize_code(code, system) for code, system in cases]
    assert [code for code, _ in found] == expected
    well_formed = [is_well_formed(code, system) for code, (_, system) in zip(expected, cases, strict=True)]
    assert [good for _, good in found] == well_formed
    assert 50 < sum(well_formed) < len(cases) - 50


CONTRASTS = """
  const parse = (color) => {
    const [r, g, b, a = 1] = color.match(/[\\d.]+/g).map(Number);
    return { rgb: [r / 255, g / 255, b / 255], a };
  };
  const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const weights = [0.2126, 0.7152, 0.0722];
  const luminance = ({ rgb }) => rgb.reduce((sum, v, i) => sum + linear(v) * weights[i], 0);
  const low = [];
  let count = 0;
  for (const element of document.querySelectorAll('body *')) {
    if (!element.checkVisibility() || element.disabled || element.closest('datalist, option')) continue;
    const hasText = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!hasText && !element.matches('input, select')) continue;
    let behind = element;
    while (parse(getComputedStyle(behind).backgroundColor).a === 0) behind = behind.parentElement;
    const back = luminance(parse(getComputedStyle(behind).backgroundColor));
    const front = luminance(parse(getComputedStyle(element).color));
    const ratio = (Math.max(back, front) + 0.05) / (Math.min(back, front) + 0.05);
    count++;
    if (ratio < 4.5) low.push(`${element.tagName}.${element.className} ${ratio.toFixed(2)}`);
  }
  return [count, low];"""


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_text_has_the_contrast_of_wcag_aa(open_page, browser, scheme):
    features = [{'name': 'prefers-color-scheme', 'value': scheme}]
    browser.execute_cdp_cmd('Emulation.setEmulatedMedia', {'features': features})
    try:
        flags = {'a/1': {(ICD10CM, 'R52'): (Flag('excludes1', 'not beside it'),)}}
        page = open_page(*reviewed_case(), flags=flags, banner='Synthetic.')
        page.press('ar')
        page.find('#add-words').send_keys('fever')
        page.add('R07.9')
        for code in page.shown_codes():
            page.run('choose(arguments[0])', f'{ICD10CM} {code}')
            count, low = page.run(CONTRASTS)
            assert low == []
            assert count > 50
        page.run("document.getElementById('help').click()")
        assert page.run(CONTRASTS)[1] == []
    finally:
        browser.execute_cdp_cmd('Emulation.setEmulatedMedia', {'features': []})


def test_everything_that_takes_focus_has_a_name_and_a_role(open_page, browser):
    page = open_page(*reviewed_case(), banner='Synthetic.')
    page.press('a')
    tree = browser.execute_cdp_cmd('Accessibility.getFullAXTree', {})['nodes']
    focusable = [
        node
        for node in tree
        if any(p['name'] == 'focusable' and p['value']['value'] for p in node.get('properties', ()))
        and node['role']['value'] not in ('RootWebArea', 'generic')
    ]
    assert len(focusable) > 20
    assert [node['role'] for node in focusable if not node.get('name', {}).get('value')] == []
    pressed = [node for node in focusable if node['name']['value'] == 'Accept I10, correct']
    assert [p['value']['value'] for p in pressed[0]['properties'] if p['name'] == 'pressed'] == ['true']
    assert page.find('#status').get_attribute('role') == 'status'


@pytest.mark.parametrize('width', [320, 390, 768, 1400])
def test_a_long_note_of_many_codes_fits_any_width(open_page, browser, width):
    words = 'pain ' * 5000 + 'W' * 300
    codes = tuple(
        PredictedCode(f'A{n:02}.{n % 10}', evidence=(Evidence(((5 * n, 5 * n + 4),), 'pain'),)) for n in range(60)
    )
    metrics = {'width': width, 'height': 844, 'deviceScaleFactor': 1, 'mobile': False}
    browser.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', metrics)
    try:
        page = open_page([Document('d' * 80, words)], [Prediction('d' * 80, codes)], title='t' * 90)
        assert len(page.find_all('.row')) == 60
        assert page.run('return document.documentElement.scrollWidth') <= width
        page.run("choose('ICD-10-CM A59.9', { focus: true })")
        inside = """const box = (selector) => document.querySelector(selector).getBoundingClientRect();
            const [inner, outer] = [box(arguments[0]), box(arguments[1])];
            return outer.top <= inner.top && inner.bottom <= outer.bottom + 1 && outer.left <= inner.left;"""
        assert page.run(inside, 'mark.current', '#note')
        assert page.run(inside, '.row.current .code', '#codes-scroll')
    finally:
        browser.execute_cdp_cmd('Emulation.clearDeviceMetricsOverride', {})
