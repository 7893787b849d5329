// The prompt line: what is typed, and below it the words that the model reads as others, or has never seen.

import { $ } from "./dom.js";
import { knowsWords, readWords } from "./server.js";

const input = $("prompt");
const mirror = $("prompt-mirror");
const note = $("prompt-note");
const NOTHING = { unknown: [], replaced: [] };
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
    const { unknown, replaced } = asked.trim() ? await readWords(asked).catch(() => NOTHING) : NOTHING;
    if (asked !== input.value) return;
    underline(new Set(unknown.map((word) => word.toLowerCase())));
    note.textContent = [
      replaced.length && `Read as ${replaced.map(([word, other]) => `${word} → ${other}`).join(", ")}.`,
      unknown.length && `Never seen: ${unknown.map((word) => `“${word}”`).join(", ")}.`,
    ].filter(Boolean).join(" ");
  }, 180);
}

input.addEventListener("input", check);
input.addEventListener("scroll", () => { mirror.scrollLeft = input.scrollLeft; });
