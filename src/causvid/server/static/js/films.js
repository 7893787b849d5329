// The films on the page: one, or two side by side after a fork; one of them is active, and commands go to it.

import { bestFormat } from "./decoder.js";
import { $ } from "./dom.js";
import * as given from "./given.js";
import { Panel } from "./panel.js";
import * as route from "./route.js";
import { about } from "./server.js";
import * as settings from "./settings.js";
import * as timeline from "./timeline.js";

const SHOWN_AGAIN = 20; // seconds of its past that a film brings back after a reload
const MOST = 2;

let panels = [];
let active = null;
let on = { changed() {}, problem() {}, frame() {} };

export const current = () => active;
export const count = () => panels.length;

export function listen(listeners) {
  on = { ...on, ...listeners };
}

// Start a film from its prompt, and from what was given; it takes the place of all others.
export async function create(prompt) {
  const follows = given.follows();
  const format = await bestFormat();
  const panel = make(format);
  clear();
  add(panel);
  panel.start({ prompt, ...settings.request(follows), ...given.request() });
  return panel;
}

// Show the films of the page's address.
export async function open(sessions) {
  const format = await bestFormat();
  clear();
  for (const session of sessions) {
    const panel = make(format);
    const { position, follows } = route.recall(session, SHOWN_AGAIN, about().fps);
    add(panel, false);
    panel.lane.start = 0;
    panel.attach(session, position, follows);
  }
  activate(panels[0] ?? null);
}

// Fork the active film and show both futures side by side.
export async function fork(from, position, mark) {
  const format = await bestFormat();
  const forked = await from.fork(position);
  const panel = make(format);
  if (panels.length >= MOST) remove(panels.find((one) => one !== from));
  panel.lane.copyFrom(from.lane, forked.position);
  panel.prompt = from.prompt;
  add(panel);
  const named = new Promise((resolve) => panel.addEventListener("named", resolve, { once: true }));
  panel.attach(forked.session, forked.position, from.follows);
  await named;
  // Another seed: two films of the same seed and prompt would be the same film.
  await panel.adjust({ seed: from.seed + 1 });
  await panel.takeUp(mark);
  return panel;
}

// Put a film that was started elsewhere on the page, alone.
export function adopt(panel) {
  clear();
  wire(panel);
  add(panel);
  write();
}

export function keep(panel) {
  for (const other of panels.filter((one) => one !== panel)) remove(other);
  activate(panel);
  write();
}

export function clear() {
  for (const panel of panels) panel.close();
  panels = [];
  activate(null);
}

export function activate(panel) {
  active = panel;
  for (const one of panels) one.element.toggleAttribute("data-active", one === active && panels.length > 1);
  on.changed();
}

function add(panel, alone = true) {
  panels.push(panel);
  $("panels").append(panel.element);
  for (const one of panels) one.keep.hidden = panels.length < 2;
  $("panels").dataset.count = panels.length;
  timeline.setLanes(panels);
  if (alone) activate(panel);
}

function remove(panel) {
  panel.close();
  panels = panels.filter((one) => one !== panel);
  for (const one of panels) one.keep.hidden = panels.length < 2;
  $("panels").dataset.count = panels.length;
  timeline.setLanes(panels);
}

function make(format) {
  const panel = new Panel(format, about().fps);
  wire(panel);
  return panel;
}

function wire(panel) {
  panel.addEventListener("change", () => panel === active && on.changed());
  panel.addEventListener("problem", ({ detail }) => on.problem(detail));
  panel.addEventListener("named", () => {
    write();
    if (panel.live && given.camera.on) given.camera.follow(panel.fps, (blob) => panel.connection.picture(blob));
  });
  panel.addEventListener("gone", ({ detail }) => gone(panel, detail));
  panel.addEventListener("frame", ({ detail }) => {
    if (panel === active) on.frame(detail);
    if (panel.position % panel.fps === 0) route.remember(panel.session, panel.position, panel.follows);
  });
  panel.element.addEventListener("pointerdown", () => activate(panel));
  panel.screen.addEventListener("focus", () => activate(panel));
  panel.keep.addEventListener("click", () => keep(panel));
}

// A film that is not there any more leaves the page as it was before a film.
function gone(panel, error) {
  if (!panels.includes(panel)) return;
  const shown = panel.player.position !== null;
  on.problem(error.code === "missing" ? "This film is no longer kept by the server. Start a new one." : error.message);
  if (shown && panels.length === 1) return on.changed(); // what was seen stays to be looked at
  remove(panel);
  activate(panels[0] ?? null);
  route.write(panels.map((one) => one.session).filter(Boolean), true);
}

// Say which films are on the page, once all of them have a name.
function write() {
  if (panels.every((panel) => panel.session)) route.write(panels.map((panel) => panel.session));
}
