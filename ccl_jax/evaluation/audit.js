'use strict';
for (const choice of document.querySelectorAll('input[name=show]')) {
  choice.addEventListener('change', () => { document.body.dataset.show = choice.value; });
}
const chosen = document.querySelector('input[name=show]:checked');
if (chosen) document.body.dataset.show = chosen.value;

// An evidence link names one quote; all its words are highlighted, also where other quotes overlap it.
function pointOut() {
  for (const word of document.querySelectorAll('mark.current')) word.classList.remove('current');
  const id = decodeURIComponent(location.hash.slice(1));
  if (!id) return;
  for (const word of document.querySelectorAll(`mark[data-quotes~="${CSS.escape(id)}"]`)) word.classList.add('current');
}
addEventListener('hashchange', pointOut);
pointOut();
