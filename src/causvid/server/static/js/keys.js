// The keyboard, where no field has it: play, steer, choose a moment. A letter begins a new prompt.

import { $ } from "./dom.js";

const ARROWS = { ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down" };
const WRITES = "input:not([type=range], [type=radio]), textarea";

// act: functions `steer(direction)`, `pause()`, `step(by)`, `rewind()`, `fork()`, `forget()`, `write()` and `leave()`; those that
// have nothing to act on return false, and the key keeps its meaning.
export function listen(act) {
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || document.querySelector("dialog[open]")) return;
    if (event.target === $("prompt") && event.key === "Escape") return act.leave();
    if (event.target.matches(WRITES)) return;
    if (press(event, act) !== false) event.preventDefault();
  });
}

function press(event, act) {
  const { key, target } = event;
  const direction = ARROWS[key];
  if (direction) return !target.matches("input") && (event.repeat || act.steer(direction));
  if (event.repeat) return false;
  if (key === " ") return !target.closest("button, a, summary, input") && act.pause();
  if (key === "[") return act.step(-1);
  if (key === "]") return act.step(1);
  if (key === "Backspace") return act.rewind();
  if (key === "\\") return act.fork();
  if (key === "Escape") return act.forget();
  if (/^\p{L}$/u.test(key) && (target === document.body || target.matches(".screen"))) act.write();
  return false; // the letter itself goes into the prompt
}
