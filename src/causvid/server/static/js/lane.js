// One film's lane of the timeline: its frames as a strip, and its prompts as marks on it.

import { clock, make } from "./dom.js";

const MOST = 160; // thumbnails that are kept; when there are more, every other is dropped
const HEIGHT = 64;

export class Lane {
  #pictures = [];
  #every = 0.5; // seconds from one thumbnail to the next
  #end = 0;
  #drawn = "";

  // chosen: called with the panel, a frame and its mark, if there is one.
  constructor(panel) {
    this.panel = panel;
    this.chosen = null;
    this.resized = null;
    this.span = 0;
    this.canvas = make("canvas", { className: "strip", height: HEIGHT });
    this.canvas.setAttribute("aria-hidden", "true");
    this.list = make("ol", { className: "marks" });
    this.head = make("span", { className: "playhead" });
    this.track = make("div", { className: "track" }, this.canvas, this.head);
    this.element = make("div", { className: "lane" }, this.track, this.list);
    this.track.addEventListener("click", (event) => this.#click(event));
    new ResizeObserver(() => this.draw()).observe(this.track);
  }

  get end() {
    return this.#end;
  }

  // Note that a frame was shown.
  add(position, bitmap) {
    this.#end = Math.max(this.#end, position + 1);
    const gap = this.#every * this.panel.fps;
    const last = this.#pictures.at(-1);
    if (!last || position >= last.position + gap) {
      const picture = make("canvas", { height: HEIGHT, width: Math.round((HEIGHT * bitmap.width) / bitmap.height) });
      const context = picture.getContext("2d");
      context.imageSmoothingQuality = "high";
      context.drawImage(bitmap, 0, 0, picture.width, picture.height);
      this.#pictures.push({ position, picture });
      if (this.#pictures.length > MOST) {
        this.#pictures = this.#pictures.filter((_, index) => index % 2 === 0);
        this.#every *= 2;
      }
      this.resized?.();
      this.draw();
    }
    this.#moveHead(position);
  }

  // Drop what comes after a frame.
  cut(position) {
    this.#pictures = this.#pictures.filter((one) => one.position < position);
    this.#end = position;
    this.#moveHead(position);
    this.resized?.();
    this.draw();
  }

  pictureAt(position) {
    return this.#pictures.findLast((one) => one.position <= position)?.picture ?? null;
  }

  // Begin with the strip of another lane, up to a frame: a fork has the same past.
  copyFrom(other, position) {
    this.#pictures = other.#pictures.filter((one) => one.position < position);
    this.#every = other.#every;
    this.#end = position;
    this.start = position;
  }

  // Draw the thumbnails side by side over the time that the lanes show, and the past of a fork faintly.
  draw() {
    const width = Math.round(this.track.clientWidth * Math.min(2, devicePixelRatio));
    if (!width || !this.span) return;
    if (this.canvas.width !== width) this.canvas.width = width;
    const context = this.canvas.getContext("2d");
    context.clearRect(0, 0, width, HEIGHT);
    const first = this.#pictures[0]?.picture;
    if (!first) return;
    const end = (this.#end / this.span) * width;
    for (let x = 0; x < end; x += first.width) {
      const position = (x / width) * this.span;
      const picture = this.pictureAt(position) ?? first;
      const shown = Math.min(first.width, end - x);
      context.drawImage(picture, 0, 0, shown, HEIGHT, x, 0, shown, HEIGHT);
    }
    context.globalCompositeOperation = "destination-out";
    context.globalAlpha = 0.7;
    context.fillRect(0, 0, ((this.start ?? 0) / this.span) * width, HEIGHT);
    context.globalCompositeOperation = "source-over";
    context.globalAlpha = 1;
  }

  render() {
    const { marks, fps } = this.panel;
    const state = JSON.stringify([marks, this.span]);
    if (state === this.#drawn || !this.span) return;
    this.#drawn = state;
    const focused = [...this.list.querySelectorAll("button")].indexOf(document.activeElement);
    this.list.replaceChildren(
      ...marks.map((mark, index) => {
        const next = marks[index + 1]?.position ?? this.span;
        const button = make(
          "button",
          { type: "button", className: "mark", title: mark.prompt },
          make("span", { className: "mark-time", textContent: clock(mark.position, fps) }),
          make("span", { className: "mark-text", textContent: mark.prompt }),
        );
        button.addEventListener("click", () => this.chosen?.(this.panel, mark.position, mark));
        const item = make("li", { data: { waiting: String(mark.waiting) } }, button);
        item.style.left = `${Math.min(99, (100 * mark.position) / this.span)}%`;
        item.style.maxWidth = `${Math.max(0, (100 * (next - mark.position)) / this.span)}%`;
        return item;
      }),
    );
    if (focused >= 0) this.list.querySelectorAll("button")[focused]?.focus();
  }

  choose(position) {
    this.track.querySelector(".chosen")?.remove();
    if (position === null) return;
    const line = make("span", { className: "chosen" });
    line.style.left = `${(100 * position) / this.span}%`;
    this.track.append(line);
  }

  #moveHead(position) {
    if (this.span) this.head.style.left = `${Math.min(100, (100 * (position + 1)) / this.span)}%`;
  }

  #click(event) {
    const box = this.track.getBoundingClientRect();
    const position = Math.round(((event.clientX - box.left) / box.width) * this.span);
    this.chosen?.(this.panel, Math.max(0, Math.min(position, this.#end - 1)), null);
  }
}
