// The prompt line: what is typed, and below it the words that the model has never seen.

import { $ } from "./dom.js";
import { knowsWords, unknownWords } from "./server.js";

const input = $("prompt");
const mirror = $("prompt-mirror");
const note = $("prompt-note");
let timer = 0;

export const text = () => input.value.trim();

export function setText(value) {
  input.value = value;
  check();
}

export function focus(select = false) {
  input.focus({ preventScroll: true });
  if (select) input.select();
}

// Underline the unknown words where they stand: a copy of the text lies behind the line.
function underline(unknown) {
  mirror.replaceChildren(
    ...input.value.split(/([\p{L}\p{N}'-]+)/u).map((piece) => {
      if (!unknown.has(piece.toLowerCase())) return piece;
      const mark = document.createElement("mark");
      mark.textContent = piece;
      return mark;
    }),
  );
  mirror.scrollLeft = input.scrollLeft;
}

async function check() {
  clearTimeout(timer);
  underline(new Set());
  if (!knowsWords()) return;
  const asked = input.value;
  timer = setTimeout(async () => {
    const unknown = asked.trim() ? await unknownWords(asked).catch(() => []) : [];
    if (asked !== input.value) return;
    underline(new Set(unknown.map((word) => word.toLowerCase())));
    const list = unknown.map((word) => `“${word}”`).join(", ");
    note.textContent = unknown.length
      ? `The model has never seen ${list}. It will show what it makes of the rest.`
      : "";
  }, 180);
}

input.addEventListener("input", check);
input.addEventListener("scroll", () => { mirror.scrollLeft = input.scrollLeft; });
