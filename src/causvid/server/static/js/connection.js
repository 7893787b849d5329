// One live session over a WebSocket: commands and their answers, and taking up the session where a connection was lost.

import { withToken } from "./token.js";

const LONGEST_WAIT = 8000;
const PING_EVERY = 10000;

export class Refused extends Error {
  constructor(message) {
    super(message.message);
    this.code = message.code;
    this.retryAfter = message.retry_after;
  }
}

export function liveAddress() {
  const address = new URL("/v1/live", location.href);
  address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
  return withToken(address.href);
}

// on: functions `opened(message)`, `chunk(header, parts)`, `changed(message)`, `failed(Refused)`, `lost()` and
// `gone(Refused)`, which is the last; each is optional.
export class Connection {
  #socket = null;
  #ref = 0;
  #asked = new Map();
  #header = null;
  #tries = 0;
  #retry = 0;
  #pings = 0;
  #heard = 0;
  #request = null;
  #left = false;
  #open = false;
  #wasOpen = false;

  constructor(format, on) {
    this.format = format;
    this.on = on;
    this.session = null;
    this.received = 0; // the frame after the last one that came
    this.online = () => this.#socket === null && !this.#left && this.#connect();
    this.offline = () => this.#socket?.close();
    addEventListener("online", this.online);
    addEventListener("offline", this.offline);
  }

  create(request) {
    this.#request = request;
    this.#connect();
  }

  attach(session, position) {
    this.session = session;
    this.received = position;
    this.#connect();
  }

  // Send a command; resolves with the server's answer, rejects with what it says against it.
  ask(type, fields = {}) {
    const ref = ++this.#ref;
    return new Promise((resolve, reject) => {
      if (this.#socket?.readyState !== WebSocket.OPEN) {
        reject(new Refused({ code: "closed", message: "There is no connection at the moment. It is being restored." }));
        return;
      }
      this.#asked.set(ref, { resolve, reject });
      this.#send({ type, ref, ...fields });
    });
  }

  // Send a picture of the camera, unless the network is behind.
  picture(blob) {
    if (this.#socket?.readyState === WebSocket.OPEN && this.#socket.bufferedAmount < 200_000) this.#socket.send(blob);
  }

  // Leave the session to itself: it can be attached to again.
  leave() {
    this.#left = true;
    removeEventListener("online", this.online);
    removeEventListener("offline", this.offline);
    clearTimeout(this.#retry);
    clearInterval(this.#pings);
    this.#socket?.close();
  }

  // Begin anew in another format, from the frame that comes next.
  switchFormat(format) {
    this.format = format;
    this.#socket?.close();
  }

  #send(message) {
    this.#socket.send(JSON.stringify(message));
  }

  #connect() {
    clearTimeout(this.#retry);
    const socket = new WebSocket(liveAddress());
    socket.binaryType = "arraybuffer";
    this.#socket = socket;
    this.#header = null;
    this.#open = false;
    this.#heard = performance.now();
    socket.onopen = () => {
      const start = this.session
        ? { type: "attach", session: this.session, position: this.received }
        : { type: "create", request: this.#request };
      this.#send({ version: 1, ref: ++this.#ref, format: this.format, ...start });
    };
    socket.onmessage = ({ data }) => {
      this.#heard = performance.now();
      if (typeof data === "string") this.#read(JSON.parse(data));
      else this.#readBinary(data);
    };
    socket.onclose = () => this.#lose(socket);
    clearInterval(this.#pings);
    this.#pings = setInterval(() => {
      if (performance.now() - this.#heard > 3 * PING_EVERY) socket.close();
      else if (socket.readyState === WebSocket.OPEN) this.#send({ type: "ping" });
    }, PING_EVERY);
  }

  #read(message) {
    const asked = this.#asked.get(message.ref);
    this.#asked.delete(message.ref);
    if (message.type === "chunk") {
      this.#header = message;
    } else if (message.type === "opened") {
      this.session = message.session;
      this.#tries = 0;
      this.#open = this.#wasOpen = true;
      this.on.opened?.(message);
    } else if (message.type === "changed") {
      this.on.changed?.(message);
    } else if (message.type === "done" || message.type === "forked") {
      asked?.resolve(message);
    } else if (message.type === "error") {
      this.#fail(new Refused(message), asked);
    }
  }

  #readBinary(data) {
    const header = this.#header;
    this.#header = null;
    if (!header) return;
    const parts = [];
    let start = 0;
    for (const size of header.sizes) {
      parts.push(new Uint8Array(data, start, size));
      start += size;
    }
    this.received = header.position + header.frames;
    this.on.chunk?.(header, parts);
  }

  #fail(error, asked) {
    if (asked) asked.reject(error);
    else if (this.#open) this.on.failed?.(error);
    else if (error.code === "busy" && this.#wasOpen) this.#socket.close(); // its place was taken meanwhile: try again
    else {
      this.leave();
      this.on.gone?.(error);
    }
  }

  #lose(socket) {
    if (socket !== this.#socket) return;
    this.#socket = null;
    clearInterval(this.#pings);
    for (const { reject } of this.#asked.values())
      reject(new Refused({ code: "closed", message: "The connection was lost before the answer came." }));
    this.#asked.clear();
    if (this.#left) return;
    this.on.lost?.();
    // Waits double, and differ by chance, so that a restarted server is not met by everyone at once.
    const wait = Math.min(LONGEST_WAIT, 250 * 2 ** this.#tries++) * (0.75 + 0.5 * Math.random());
    this.#retry = setTimeout(() => this.#connect(), wait);
  }
}
