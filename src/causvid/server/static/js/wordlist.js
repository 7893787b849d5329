// What the built-in model knows, as words to click.

import { $, make } from "./dom.js";
import { readWords } from "./server.js";
import { namedWords, phraseOf } from "./words.js";

const NAMES = {
  subject: "Subjects", colour: "Colours", place: "Places", motion: "Motions", weather: "Weather", time: "Time of day",
  camera: "Camera",
};
const OPEN = ["subject", "colour", "place", "motion"];
let buttons = [];

// Return the words by kind of which the model knows the whole phrase that a click would write.
export async function known(vocabulary) {
  if (!vocabulary) return null;
  const phrases = Object.entries(vocabulary).flatMap(([kind, words]) => words.map((word) => phraseOf(kind, word)));
  const unknown = new Set();
  for (let start = 0; start < phrases.length; start += 40) {
    const read = await readWords(phrases.slice(start, start + 40).join(" "));
    for (const word of [...read.unknown, ...read.replaced.map(([said]) => said)]) unknown.add(word);
  }
  const knows = (kind, word) => !phraseOf(kind, word).split(" ").some((part) => unknown.has(part));
  return Object.fromEntries(
    Object.entries(vocabulary).map(([kind, words]) => [kind, words.filter((word) => knows(kind, word))]),
  );
}

// clicked: called with a kind and a word.
export function build(vocabulary, clicked) {
  if (!vocabulary) return;
  $("words").hidden = false;
  $("words-lead").textContent =
    "The built-in model is small: it knows these words, and little else. Click them, or type them.";
  buttons = [];
  $("word-kinds").replaceChildren(
    ...Object.entries(vocabulary).filter(([, words]) => words.length).map(([kind, words]) => {
      const list = make("ul", { className: "chips" });
      for (const word of words) {
        const button = make("button", { type: "button", className: "chip", textContent: word });
        button.addEventListener("click", () => clicked(kind, word));
        buttons.push({ kind, word, button });
        list.append(make("li", {}, button));
      }
      const name = NAMES[kind] ?? kind;
      return make("details", { open: OPEN.includes(kind) }, make("summary", { textContent: name }), list);
    }),
  );
}

// Press the words that the prompt has.
export function mark(prompt, vocabulary) {
  if (!vocabulary) return;
  const named = Object.fromEntries(Object.keys(vocabulary).map((kind) => [kind, namedWords(prompt, kind, vocabulary)]));
  for (const { kind, word, button } of buttons)
    button.setAttribute("aria-pressed", String(named[kind].includes(word)));
}
