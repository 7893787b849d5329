// Strength, seed, steps, and how a change of prompt is made.

import { $ } from "./dom.js";

const NOTES = {
  cut: "The text changes; what is on the screen fades at its own pace.",
  recache: "What the model remembers is recomputed under the new text. Quickest and cleanest.",
  blend: "The text moves there over several chunks.",
};
let changed = () => {};
let timer = 0;

export function whenAdjusted(listener) {
  changed = listener;
}

const mode = () => document.querySelector("input[name=mode]:checked").value;

// Return how the prompt changes, as the protocol says it.
export function transition() {
  // Half a chunk of crossfade shows a change sooner than a whole one, and still without a seam.
  return mode() === "blend" ? { mode: "blend", chunks: Number($("chunks").value) } : { mode: mode(), dissolve: 0.5 };
}

export function seed() {
  const value = Math.floor(Number($("seed").value));
  return Number.isSafeInteger(value) && value >= 0 ? value : 0;
}

// Return what a new film is asked for.
export function request(follows) {
  const steps = Math.floor(Number($("steps").value));
  return {
    seed: seed(),
    ...(steps >= 1 ? { steps } : {}),
    ...(follows ? { strength: Number($("strength").value) } : {}),
  };
}

// Show what the film in play has, unless the field is being written in.
export function show(panel) {
  if (panel && document.activeElement !== $("seed") && timer === 0) $("seed").value = panel.seed;
  if (panel && document.activeElement !== $("strength") && timer === 0) setStrength(panel.strength);
}

export function showStrength(visible) {
  $("strength-field").hidden = !visible;
}

export function configure(about) {
  $("steps").value = about.steps ?? "";
}

function setStrength(value) {
  $("strength").value = value;
  $("strength-value").value = Number($("strength").value).toFixed(2);
}

function adjust(values) {
  clearTimeout(timer);
  timer = setTimeout(() => {
    timer = 0;
    changed(values);
  }, 250);
}

function showMode() {
  $("mode-note").textContent = NOTES[mode()];
  $("chunks-field").hidden = mode() !== "blend";
}

$("mode").addEventListener("change", showMode);
$("chunks").addEventListener("input", () => { $("chunks-value").value = $("chunks").value; });
$("strength").addEventListener("input", () => {
  setStrength($("strength").value);
  adjust({ strength: Number($("strength").value) });
});
$("seed").addEventListener("change", () => {
  $("seed").value = seed();
  adjust({ seed: seed() });
});
$("dice").addEventListener("click", () => {
  $("seed").value = Math.floor(Math.random() * 10000);
  adjust({ seed: seed() });
});
showMode();
