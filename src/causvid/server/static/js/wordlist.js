// What the built-in model knows, as words to click.

import { $, make } from "./dom.js";
import { namedWords } from "./words.js";

const NAMES = {
  subject: "Subjects", colour: "Colours", place: "Places", motion: "Motions", weather: "Weather", time: "Time of day",
  camera: "Camera",
};
const OPEN = ["subject", "colour", "place", "motion"];
let buttons = [];

// clicked: called with a kind and a word.
export function build(vocabulary, clicked) {
  if (!vocabulary) return;
  $("words").hidden = false;
  $("words-lead").textContent =
    "The built-in model is small. It has seen these words and their kin, and nothing else: click them, or type them.";
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
