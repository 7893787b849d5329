// One film on the page: its session, its picture, and its lane of the timeline.

import { Connection, Refused } from "./connection.js";
import { makeDecoder } from "./decoder.js";
import { $ } from "./dom.js";
import { Lane } from "./lane.js";
import { Player } from "./player.js";

const STATES = { paused: "Paused", ended: "The film has ended", closed: "The film has ended" };

// Events: "change" when what it shows about itself has changed, "problem" with a message, "gone" when it cannot go on,
// "frame" for each frame shown, "named" when its session has an identifier.
export class Panel extends EventTarget {
  state = "starting";
  prompt = "";
  seed = 0;
  strength = 0.9;
  oldest = 0;
  marks = [];
  live = false;
  latency = null;
  session = null;
  #decoder = null;
  #opened = null;
  #awaited = null;

  constructor(format, fps) {
    super();
    this.element = $("panel-template").content.firstElementChild.cloneNode(true);
    this.screen = this.element.querySelector(".screen");
    this.canvas = this.element.querySelector("canvas");
    this.veil = this.element.querySelector(".veil");
    this.keep = this.element.querySelector(".keep");
    this.fps = fps;
    this.lane = new Lane(this);
    this.player = new Player(this.canvas, (position, bitmap) => this.#shown(position, bitmap));
    this.connection = new Connection(format, {
      opened: (message) => this.#open(message),
      chunk: (header, parts) => this.#chunk(header, parts),
      changed: (message) => this.#change(message),
      failed: (error) => this.#problem(error.message),
      lost: () => this.#setState("reconnecting"),
      gone: (error) => this.#gone(error),
    });
    this.#tell("change");
  }

  // follows: it translates a video, so that its strength can be set.
  start(request) {
    this.prompt = request.prompt;
    this.seed = request.seed;
    this.strength = request.strength ?? this.strength;
    this.follows = request.source != null;
    this.#await(0);
    this.connection.create(request);
    this.#render();
  }

  attach(session, position, follows = false) {
    this.session = session;
    this.follows = follows;
    this.connection.attach(session, position);
    this.#render();
  }

  get going() {
    return this.state === "playing" || this.state === "paused" || this.state === "reconnecting";
  }

  get position() {
    return this.player.position ?? 0;
  }

  async setPrompt(prompt, transition) {
    const asked = performance.now();
    const { position } = await this.connection.ask("prompt", { prompt, ...transition });
    this.prompt = prompt;
    this.#await(position, asked);
    this.#render();
  }

  adjust(values) {
    return this.connection.ask("adjust", values);
  }

  pause() {
    return this.connection.ask("pause");
  }

  resume() {
    return this.connection.ask("resume");
  }

  // Go back to a moment and play on from there, under the prompt of a mark if there is one.
  async rewind(position, mark = null) {
    // Paused, so that nothing is made in between. One that has ended cannot be, and need not.
    this.pause().catch(() => {});
    let done;
    try {
      done = await this.connection.ask("rewind", { position });
    } catch (error) {
      await this.resume().catch(() => {});
      throw error;
    }
    this.connection.received = done.position;
    this.#decoder?.reset();
    this.player.clear();
    this.lane.cut(done.position);
    const still = this.lane.pictureAt(done.position);
    if (still) this.player.still(still, Math.max(0, done.position - 1));
    await this.takeUp(mark);
  }

  // Play on. A mark is where its prompt begins: whoever returns to it sees it again.
  async takeUp(mark) {
    const changes = mark?.position ? [this.setPrompt(mark.prompt, { mode: mark.mode, dissolve: 0.5 })] : [];
    await Promise.all([...changes, this.resume()]);
  }

  fork(position) {
    return this.connection.ask("fork", { position });
  }

  close() {
    this.connection.leave();
    this.#decoder?.reset();
    this.player.close();
    this.element.remove();
    this.lane.element.remove();
  }

  #open(message) {
    const first = this.#opened === null;
    this.#opened = message;
    this.session = message.session;
    this.fps = message.fps;
    this.live = message.live;
    this.chunk = message.chunk;
    if (first) {
      this.player.configure(message);
      this.player.catchUp = message.position;
    }
    this.#decoder?.reset();
    this.#decoder = makeDecoder(message.format, message.codec, () => this.#decoderFailed());
    this.#change(message);
    if (first) this.#tell("named");
  }

  #chunk(header, parts) {
    try {
      this.#decoder.decode(parts, (index, bitmap) => this.player.add(header.position + index, bitmap));
    } catch {
      this.#decoderFailed();
    }
  }

  // What a browser says it decodes, and what it decodes, are two things.
  #decoderFailed() {
    const next = { h264: "webp", webp: "jpeg" }[this.connection.format];
    this.#decoder?.reset();
    if (next) this.connection.switchFormat(next);
    else this.#problem("This browser cannot decode the film.");
  }

  #change(message) {
    this.marks = message.marks;
    this.seed = message.seed;
    this.strength = message.strength;
    this.oldest = message.oldest;
    this.ahead = message.ahead ?? null;
    this.prompt = message.marks.at(-1)?.prompt ?? this.prompt;
    if (message.state === "closed") this.connection.leave(); // there is nothing to attach to any more
    this.#setState(message.state);
  }

  #setState(state) {
    this.state = state;
    this.#render();
  }

  #shown(position, bitmap) {
    if (this.#awaited && position >= this.#awaited.position) {
      this.latency = (performance.now() - this.#awaited.asked) / 1000;
      this.#awaited = null;
    }
    this.element.dataset.position = position;
    this.lane.add(position, bitmap);
    this.dispatchEvent(new CustomEvent("frame", { detail: bitmap }));
    if (position === 0) this.#render();
  }

  #await(position, asked = performance.now()) {
    this.#awaited = { position, asked };
  }

  stateText() {
    if (this.state === "queued")
      return this.ahead ? `Waiting for a place: ${this.ahead} before you` : "Waiting for a place: you are next";
    if (this.state === "reconnecting") return "Reconnecting";
    if (this.state === "starting" || (this.state === "playing" && this.player.position === null)) return "Starting";
    return STATES[this.state] ?? "Playing";
  }

  #render() {
    const veiled = !["playing", "starting"].includes(this.state);
    this.veil.hidden = !veiled;
    this.veil.textContent = veiled ? this.stateText() : "";
    this.element.dataset.state = this.state;
    this.element.querySelector(".panel-prompt").textContent = this.prompt;
    this.canvas.setAttribute("aria-label", this.prompt);
    this.screen.setAttribute("aria-label", `Film: ${this.prompt}`);
    this.lane.render();
    this.#tell("change");
  }

  #problem(message) {
    this.dispatchEvent(new CustomEvent("problem", { detail: message }));
  }

  #gone(error) {
    this.state = "closed";
    this.#render();
    this.dispatchEvent(new CustomEvent("gone", { detail: error instanceof Refused ? error : new Refused({ message: "" }) }));
  }

  #tell(name) {
    this.dispatchEvent(new Event(name));
  }
}
