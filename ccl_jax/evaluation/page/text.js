'use strict';

// Offsets in the data and in what is exported count code points, as Python does; JavaScript counts UTF-16 units.
class Offsets {
  constructor(text) {
    this.starts = null; // The unit at which each code point begins; not needed where both counts agree.
    if (!/[\ud800-\udbff][\udc00-\udfff]/.test(text)) return;
    this.starts = [];
    for (let unit = 0; unit < text.length; unit += text.codePointAt(unit) > 0xffff ? 2 : 1) this.starts.push(unit);
    this.starts.push(text.length);
  }

  toUnit(point) {
    return this.starts ? this.starts[point] : point;
  }

  // A unit inside of a code point belongs to it: `begin` goes to its start, an end to the start of the next.
  toPoint(unit, isEnd = false) {
    if (!this.starts) return unit;
    let low = 0;
    let high = this.starts.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.starts[middle] <= unit) low = middle;
      else high = middle - 1;
    }
    return isEnd && this.starts[low] < unit ? low + 1 : low;
  }
}

function sliceWords(text, offsets, parts) {
  return parts.map(([begin, end]) => text.slice(offsets.toUnit(begin), offsets.toUnit(end))).join(' ');
}

// Units [begin, end) without white space at either end; null where nothing is left.
function trimmed(text, begin, end) {
  const words = text.slice(begin, end);
  const kept = words.trim();
  if (!kept) return null;
  const first = begin + words.indexOf(kept);
  return [first, first + kept.length];
}

// The first place of typed words in units: as typed, else up to case; any white space between words is the same.
function findWords(text, words) {
  const escaped = words
    .trim()
    .split(/\s+/)
    .map((word) => word.replace(/[\\^$.*+?()[\]{}|/]/g, '\\$&'));
  if (!escaped[0]) return null;
  for (const flags of ['u', 'iu']) {
    const match = new RegExp(escaped.join('\\s+'), flags).exec(text);
    if (match) return [match.index, match.index + match[0].length];
  }
  return null;
}

// As `normalize_code` of ccl_jax.icd.codes.
function normalizeCode(code, system) {
  const bare = code.replace(/[\s.]+/g, '').toUpperCase();
  if (system === 'ICD-10-PCS' || system === 'CPT') return bare;
  const head = system === 'ICD-9-PCS' ? 2 : system === 'ICD-9-CM' && bare.startsWith('E') ? 4 : 3;
  return bare.length > head ? `${bare.slice(0, head)}.${bare.slice(head)}` : bare;
}

function isWellFormed(code, system, forms) {
  return Object.hasOwn(forms, system) && new RegExp(`^(?:${forms[system]})$`).test(code);
}

// Control characters as pictures of themselves, one for one, so that offsets stay.
function visible(text) {
  return text
    .replace(/[\x00-\x08\x0b\x0c\x0e-\x1f]/g, (c) => String.fromCharCode(0x2400 + c.charCodeAt(0)))
    .replace(/\x7f/g, '\u2421')
    .replace(/[\x80-\x9f]/g, '\ufffd');
}

function many(count, one, several = `${one}s`) {
  return `${count.toLocaleString('en')} ${count === 1 ? one : several}`;
}

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children); // Strings become text nodes: no text is ever parsed as markup.
  return element;
}
