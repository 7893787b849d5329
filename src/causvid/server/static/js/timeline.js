// The timeline: a lane for each film over one scale, and the moment on them that is chosen to rewind to or to fork from.

import { $, clock } from "./dom.js";

const SHORTEST = 20; // seconds that the lanes show at least; a longer film is fitted in
const room = $("lanes");
const text = $("moment-text");
const actions = $("moment-actions");

let lanes = [];
let span = 0;
let chosen = null;
let onChoose = () => {};

export const moment = () => chosen;

export function whenChosen(listener) {
  onChoose = listener;
}

export function setLanes(panels) {
  lanes = panels.map((panel) => panel.lane);
  room.replaceChildren(...lanes.map((lane) => lane.element));
  for (const lane of lanes) {
    lane.chosen = choose;
    lane.resized = measure;
  }
  if (chosen && !panels.includes(chosen.panel)) choose(null);
  span = 0;
  measure();
  $("film").hidden = lanes.length === 0;
}

function measure() {
  const fps = lanes[0]?.panel.fps ?? 12;
  const longest = Math.max(SHORTEST * fps, ...lanes.map((lane) => lane.end * 1.06));
  // In steps of a tenth, so that the scale does not creep all the time.
  const fullest = Math.max(0, ...lanes.map((lane) => lane.end));
  $("film-hint").hidden = lanes.length !== 1 || fullest > 0.6 * Math.max(span, SHORTEST * fps);
  const wanted = SHORTEST * fps * 1.1 ** Math.ceil(Math.log(longest / (SHORTEST * fps)) / Math.log(1.1) - 1e-9);
  if (wanted === span) return;
  span = wanted;
  for (const lane of lanes) {
    lane.span = span;
    lane.draw();
    lane.render();
    lane.choose(chosen?.panel === lane.panel ? chosen.position : null);
  }
}

export function choose(panel, position = 0, mark = null) {
  chosen = panel ? { panel, position, mark } : null;
  for (const lane of lanes) lane.choose(chosen?.panel === lane.panel ? position : null);
  const shown = chosen ?? { position: 0 };
  const prompt = mark?.prompt ?? panel?.marks.findLast((one) => one.position <= position)?.prompt ?? "";
  $("moment").hidden = chosen === null;
  text.textContent = chosen ? `${clock(shown.position, panel.fps)} ${prompt}` : "";
  actions.hidden = chosen === null || panel.live;
  if (chosen && panel.live) text.textContent = "A film that follows a camera cannot be rewound or forked.";
  if (!chosen) return;
  place(panel.lane, position);
  onChoose(panel);
}

// Put the bubble with what can be done above the moment, inside the timeline's width.
function place(lane, position) {
  const bubble = $("moment");
  const wide = $("film").clientWidth;
  const left = (position / span) * wide - bubble.offsetWidth / 2;
  bubble.style.left = `${Math.max(0, Math.min(left, wide - bubble.offsetWidth))}px`;
  bubble.style.top = `${lane.element.offsetTop - bubble.offsetHeight - 8}px`;
}

// Choose the mark before (-1) or after (1) the chosen moment, or before now.
export function step(panel, by) {
  const from = chosen?.panel === panel ? chosen.position : panel.position + 1;
  const marks = panel.marks.filter((mark) => !mark.waiting);
  const mark = by < 0 ? marks.findLast((one) => one.position < from) : marks.find((one) => one.position > from);
  if (mark) choose(panel, mark.position, mark);
}
