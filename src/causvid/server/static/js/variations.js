// Four seeds side by side: from the start, or from this moment of a film. A click continues with one of them.

import { $, make } from "./dom.js";
import { Panel } from "./panel.js";
import * as route from "./route.js";

const COUNT = 4;
const room = $("variations");
let panels = [];

export const open = () => panels.length > 0;

// from: the film they are futures of, or null. chosen: called with the panel that goes on. Returns when all are asked for.
export async function show({ from, request, format, fps, chosen, problem }) {
  close();
  const done = make("button", { type: "button", className: "small", textContent: "Close variations" });
  done.addEventListener("click", () => chosen(null));
  room.replaceChildren(done);
  room.hidden = false;
  for (let number = 0; number < COUNT; number++) {
    const seed = (from ? from.seed : request.seed) + number;
    const panel = new Panel(format, fps);
    panels.push(panel);
    watch(panel, seed, chosen, problem);
    if (!from) {
      panel.start({ ...request, seed });
      continue;
    }
    try {
      const fork = await from.fork(null);
      if (!panels.includes(panel)) return;
      panel.lane.copyFrom(from.lane, fork.position);
      panel.addEventListener("named", async () => {
        if (number) await panel.adjust({ seed }).catch(() => {});
        await panel.resume().catch((error) => problem(error.message));
      });
      panel.attach(fork.session, fork.position, from.follows);
    } catch (error) {
      drop(panel);
      problem(error.message);
      return;
    }
  }
}

export function close() {
  for (const panel of panels) end(panel);
  panels = [];
  room.replaceChildren();
  room.hidden = true;
}

// Take one out, which goes on, and end the others.
function take(panel) {
  panels = panels.filter((one) => one !== panel);
  close();
  return panel;
}

function watch(panel, seed, chosen, problem) {
  const pick = make("button", { type: "button", className: "small keep", textContent: `Continue with seed ${seed}` });
  panel.element.querySelector(".panel-prompt").hidden = true;
  panel.element.querySelector(".panel-head").append(pick);
  const picked = () => {
    panel.element.querySelector(".panel-prompt").hidden = false;
    pick.remove();
    panel.screen.removeEventListener("click", picked);
    chosen(take(panel));
  };
  pick.addEventListener("click", picked);
  panel.screen.addEventListener("click", picked);
  panel.screen.tabIndex = -1;
  panel.addEventListener("named", () => route.remember(panel.session, panel.lane.start ?? 0, panel.follows));
  panel.addEventListener("problem", ({ detail }) => problem(detail));
  panel.addEventListener("gone", ({ detail }) => {
    if (!panels.includes(panel)) return;
    drop(panel);
    problem(detail.message);
  });
  room.lastElementChild.before(panel.element);
}

function drop(panel) {
  end(panel);
  panels = panels.filter((one) => one !== panel);
  if (!panels.length) room.hidden = true;
}

// Nobody wants it any more: its place is free for others.
function end(panel) {
  panel.connection.ask("close").catch(() => {});
  panel.close();
}
