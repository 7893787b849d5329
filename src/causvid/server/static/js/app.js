// The studio: what is typed, clicked, dropped and pressed, as commands to the films.

import { $, make, setIcon } from "./dom.js";
import { bestFormat } from "./decoder.js";
import * as films from "./films.js";
import { glow } from "./glow.js";
import * as given from "./given.js";
import * as keys from "./keys.js";
import * as prompt from "./prompt.js";
import * as route from "./route.js";
import { about, exportAddress, loadAbout, setVocabulary } from "./server.js";
import * as settings from "./settings.js";
import * as timeline from "./timeline.js";
import * as variations from "./variations.js";
import * as wordlist from "./wordlist.js";
import { motionOf, setWord } from "./words.js";

const QUIET = 10_000; // milliseconds that a problem stays in sight
let problemTimer = 0;
let changeTimer = 0;
let forking = null;
let example = "";
let shownFor = null;

function problem(message) {
  clearTimeout(problemTimer);
  $("problem").textContent = message && message[0].toUpperCase() + message.slice(1).replace(/[^.!?]$/, "$&.");
  $("problem").hidden = !message;
  if (message) problemTimer = setTimeout(() => { $("problem").hidden = true; }, QUIET);
}

// Do what may be refused, and say so if it is.
async function attempt(work) {
  problem("");
  try {
    return await work();
  } catch (error) {
    problem(error.message);
    return null;
  }
}

// Play what is typed: as a change of the film in play, else as a new film.
function play() {
  clearTimeout(changeTimer);
  if (!prompt.text()) prompt.setText(films.current()?.prompt || example);
  return attempt(async () => {
    await forking;
    const panel = films.current();
    if (panel?.going) await change(prompt.text());
    else await begin();
    films.current()?.screen.focus({ preventScroll: true });
  });
}

async function begin() {
  variations.close();
  await films.create(prompt.text());
}

async function change(text) {
  const panel = films.current();
  if (text !== panel.prompt) await panel.setPrompt(text, settings.transition());
  if (panel.state === "paused") await panel.resume();
}

// Change the prompt by a word. Several clicks in a row are one change.
function edit(text, wait) {
  prompt.setText(text);
  render();
  clearTimeout(changeTimer);
  if (films.current()?.going) changeTimer = setTimeout(() => attempt(() => change(text)), wait);
}

function turn(direction) {
  if (!films.current()?.going) return false;
  const { vocabulary } = about();
  edit(setWord(prompt.text() || films.current().prompt, "motion", motionOf(direction, vocabulary), vocabulary ?? {}), 80);
  return true;
}

function pause() {
  const panel = films.current();
  if (!panel?.going) return false;
  attempt(() => (panel.state === "paused" ? panel.resume() : panel.pause()));
  return true;
}

function rewind() {
  const moment = timeline.moment();
  if (!moment || moment.panel.live) return false;
  attempt(async () => {
    const { panel, position, mark } = moment;
    timeline.choose(null);
    await panel.rewind(position, mark);
    films.activate(panel);
    prompt.setText(panel.prompt);
    panel.screen.focus({ preventScroll: true });
  });
  return true;
}

function fork() {
  const panel = timeline.moment()?.panel ?? films.current();
  if (!panel?.going || panel.live) return false;
  const { position = null, mark = null } = timeline.moment() ?? {};
  timeline.choose(null);
  // What happens instead can be typed at once; it is sent when the fork is there.
  prompt.setText(mark?.prompt ?? panel.prompt);
  prompt.focus(true);
  forking = attempt(() => films.fork(panel, position, mark));
  return true;
}

async function vary() {
  const panel = films.current();
  const from = panel?.going && !panel.live ? panel : null;
  if (!prompt.text()) prompt.setText(panel?.prompt || example);
  await attempt(async () => {
    if (from && from.state !== "paused") await from.pause();
    const request = { prompt: prompt.text(), ...settings.request(given.follows()), ...given.request() };
    $("panels").hidden = true;
    const chosen = (picked) => {
      $("panels").hidden = false;
      variations.close();
      if (picked) films.adopt(picked);
      else from?.resume().catch((error) => problem(error.message));
      render();
    };
    await variations.show({ from, request, format: await bestFormat(), fps: about().fps, chosen, problem });
    if (!variations.open()) $("panels").hidden = false;
    render();
  });
}

function startAnew() {
  clearTimeout(changeTimer);
  variations.close();
  given.clear();
  films.clear();
  timeline.setLanes([]);
  route.write([]);
  $("panels").hidden = false;
  prompt.setText("");
  prompt.focus();
  render();
}

function render() {
  const panel = films.current();
  $("welcome").hidden = films.count() > 0 || variations.open();
  $("stage").toggleAttribute("data-empty", !$("welcome").hidden);
  if (!panel) timeline.setLanes([]);
  const said = variations.open() ? "Choose a variation" : panel ? panel.stateText() : "Ready";
  if ($("state").textContent !== said) $("state").textContent = said;
  $("state").dataset.state = panel?.state ?? "ready";
  const paused = panel?.state === "paused";
  $("pause").disabled = !panel?.going;
  $("pause").setAttribute("aria-label", paused ? "Continue" : "Pause");
  setIcon($("pause"), paused ? "play" : "pause");
  $("go").setAttribute("aria-label", panel?.going ? "Change to this prompt" : "Play");
  $("steer").hidden = !panel?.going;
  $("new").hidden = !panel;
  for (const [id, format, name] of [["save-video", "mp4", "film.mp4"], ["save-script", "toml", "film.toml"]]) {
    $(id).hidden = !panel?.session || panel.live;
    if (panel?.session) Object.assign($(id), { href: exportAddress(panel.session, format), download: name });
  }
  settings.show(panel);
  settings.showStrength(given.follows() || Boolean(panel?.follows));
  wordlist.mark(prompt.text(), about().vocabulary);
  // Another film has become active: the line shows its prompt.
  if (panel?.session && panel.prompt && panel !== shownFor) {
    shownFor = panel;
    if (document.activeElement !== $("prompt") || !prompt.text()) prompt.setText(panel.prompt);
  }
}

function renderReadout() {
  const panel = films.current();
  $("readout").hidden = !panel;
  if (!panel) return;
  const rate = panel.player.rate();
  $("fps").textContent = rate ? rate.toFixed(rate < 9.95 ? 1 : 0) : "–";
  $("latency").textContent = panel.latency === null ? "–" : `${panel.latency.toFixed(2)} s`;
}

function ready() {
  if (prompt.text()) attempt(begin);
  else {
    problem("");
    prompt.focus();
  }
}

async function start() {
  films.listen({ changed: render, problem, frame: glow });
  given.listen({
    ready: () => {
      if (given.camera.on && !prompt.text()) prompt.setText(example);
      ready();
    },
    problem,
    changed: () => {
      const panel = films.current();
      if (panel?.live && !given.camera.on) panel.connection.ask("close").catch(() => {});
      render();
    },
  });
  timeline.whenChosen((panel) => films.activate(panel));
  settings.whenAdjusted((values) => {
    const panel = films.current();
    if (panel?.going && (values.strength === undefined || panel.follows)) attempt(() => panel.adjust(values));
  });
  keys.listen({
    steer: turn,
    pause,
    rewind,
    fork,
    step: (by) => films.current() !== null && timeline.step(films.current(), by),
    forget: () => timeline.moment() !== null && timeline.choose(null),
    write: () => prompt.focus(true),
    leave: () => (films.current() ? films.current().screen.focus({ preventScroll: true }) : $("prompt").blur()),
  });
  $("prompt-form").addEventListener("submit", (event) => {
    event.preventDefault();
    play();
  });
  $("prompt").addEventListener("input", () => wordlist.mark(prompt.text(), about().vocabulary));
  $("pause").addEventListener("click", pause);
  $("rewind").addEventListener("click", rewind);
  $("fork").addEventListener("click", fork);
  $("new").addEventListener("click", startAnew);
  $("variation-button").addEventListener("click", vary);
  $("help").addEventListener("click", () => $("keys").showModal());
  for (const button of document.querySelectorAll("[data-steer]"))
    button.addEventListener("click", () => turn(button.dataset.steer));
  route.whenLeft(() => reopen());
  setInterval(renderReadout, 500);

  const model = await attempt(loadAbout);
  if (model) await introduce(model);
  await reopen();
  if (!films.count()) prompt.focus();
}

// Say what the model is like, and what it knows.
async function introduce(model) {
  example = model.examples[0] ?? "a red fox hopping in a meadow";
  $("prompt").placeholder = example;
  settings.configure(model);
  $("examples").replaceChildren(
    ...model.examples.slice(0, 4).map((text) => {
      const button = make("button", { type: "button", className: "example", textContent: text });
      button.addEventListener("click", () => {
        prompt.setText(text);
        play();
      });
      return button;
    }),
  );
  const vocabulary = (await attempt(() => wordlist.known(model.vocabulary))) ?? model.vocabulary;
  setVocabulary(vocabulary);
  wordlist.build(vocabulary, (kind, word) => edit(setWord(prompt.text(), kind, word, vocabulary), 500));
  for (const button of document.querySelectorAll("[data-steer]")) {
    const motion = motionOf(button.dataset.steer, vocabulary);
    button.title = motion[0].toUpperCase() + motion.slice(1);
    button.setAttribute("aria-label", button.title);
  }
}

async function reopen() {
  clearTimeout(changeTimer);
  variations.close();
  $("panels").hidden = false;
  shownFor = null;
  prompt.setText("");
  await films.open(route.read());
  if (!films.count()) timeline.setLanes([]);
  render();
}

start();
