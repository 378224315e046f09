"use strict";
// Pages through the samples that the page carries as JSON. Texts are data: they only ever become
// text nodes, never markup.
let unfolded = false; // whether the notes of the last card were open: the next one's are too

for (const root of document.querySelectorAll(".browser")) {
  const source = document.getElementById("data-" + root.dataset.source);
  if (source) browse(root, JSON.parse(source.textContent), root.dataset);
}

function element(name, css, text) {
  const made = document.createElement(name);
  if (css) made.className = css;
  if (text !== undefined) made.textContent = text;
  return made;
}

function browse(root, cards, { label, notes }) {
  const controls = element("div", "controls");
  const search = element("input");
  search.type = "search";
  search.placeholder = "Find a word";
  search.setAttribute("aria-label", "Find a word in any text of a " + label);
  const back = element("button", "", "← Previous");
  const next = element("button", "", "Next →");
  for (const button of [back, next]) button.type = "button";
  const place = element("output");
  place.setAttribute("aria-live", "polite");
  controls.append(search, back, next, place);
  const shown = element("div", "shown");
  root.append(controls, shown);

  const haystacks = cards.map((card) => JSON.stringify(card).toLowerCase());
  let found = cards;
  let at = 0;
  function draw() {
    back.disabled = at <= 0;
    next.disabled = at >= found.length - 1;
    place.textContent = found.length ? `${label} ${at + 1} of ${found.length}` : `no ${label} has that`;
    shown.replaceChildren(...(found.length ? parts(found[at], notes) : []));
    shown.hidden = !found.length;
  }
  search.addEventListener("input", () => {
    const word = search.value.toLowerCase();
    found = word ? cards.filter((_, i) => haystacks[i].includes(JSON.stringify(word).slice(1, -1))) : cards;
    at = 0;
    draw();
  });
  back.addEventListener("click", () => { at -= 1; draw(); });
  next.addEventListener("click", () => { at += 1; draw(); });
  draw();
}

function parts(card, notesName) {
  const made = [element("p", "text prompt", card.prompt)];
  const facts = [card.id, card.facts].filter(Boolean).join(" · ");
  made.push(element("p", "facts", facts));
  const sides = element("div", "sides");
  for (const text of card.texts) {
    const side = element("div", "side");
    if (/^(s[0-8]|chosen|rejected)$/.test(text.mark)) side.classList.add(text.mark);
    side.append(element("h3", "", text.label));
    if (text.facts) side.append(element("p", "facts", text.facts));
    side.append(element("p", "text", text.text || "(empty)"));
    sides.append(side);
  }
  made.push(sides);
  let notes = made;
  if (card.notes.length > 2) {
    const folded = element("details", "note-block");
    folded.open = unfolded;
    folded.addEventListener("toggle", () => { unfolded = folded.open; });
    folded.append(element("summary", "", `${card.notes.length} ${notesName}`));
    made.push(folded);
    notes = { push: (block) => folded.append(block) };
  }
  for (const note of card.notes) {
    const block = element("div", "note-block");
    block.append(element("h3", "", note.label));
    if (note.facts) block.append(element("p", "facts", note.facts));
    block.append(element("p", "text", note.text));
    notes.push(block);
  }
  return made;
}
