// Pictures on a canvas at the native rate: a short buffer, a small clock, and a smooth enlargement.

const BUFFER = 60; // milliseconds that the first picture waits, so that a late one is not seen as a stop
const SPARE = 0.3; // seconds that the next chunk may come before it is needed: what more is there delays a change of prompt
const LARGEST = 1440; // pixels of the canvas, in width

export class Player {
  #queue = [];
  #due = 0;
  #shown = [];
  #now = null;
  #running = false;
  #low = Infinity; // fewest frames that waited while the last chunk was shown
  #pace = 1;

  // shown: called with the number of the frame and its bitmap, for every frame in order, those skipped included.
  constructor(canvas, shown) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false });
    this.shown = shown;
    this.position = null; // the frame on the canvas
    this.fps = 12;
    this.catchUp = 0; // frames before it are not played, only shown as one goes by
    new ResizeObserver(() => this.#fit()).observe(canvas);
  }

  configure({ fps, width, height, chunk }) {
    Object.assign(this, { fps, width, height, chunk });
    this.canvas.style.aspectRatio = `${width} / ${height}`;
    this.#fit();
  }

  add(position, bitmap) {
    if (this.#queue.length === 0) this.#due = Math.max(this.#due, performance.now() + (this.position === null ? 0 : BUFFER));
    this.#queue.push({ position, bitmap });
    // A page in the background draws nothing; when it is seen again it must not play what is long past.
    while (this.#queue.length > 4 * this.fps || (this.#queue[0]?.position ?? Infinity) < this.catchUp - 1) this.#show(false);
    if (!this.#running) {
      this.#running = true;
      requestAnimationFrame((now) => this.#tick(now));
    }
  }

  // Drop what has not been shown: what comes next is another future.
  clear() {
    for (const { bitmap } of this.#queue) bitmap.close();
    this.#queue = [];
    this.#due = 0;
    this.#low = Infinity;
    this.#pace = 1;
    this.catchUp = 0;
  }

  // Show another picture until frames come, as after rewinding.
  still(picture, position) {
    this.context.drawImage(picture, 0, 0, this.canvas.width, this.canvas.height);
    this.position = position;
  }

  // Frames shown in the last two seconds, a second.
  rate() {
    const since = performance.now() - 2000;
    this.#shown = this.#shown.filter((time) => time > since);
    return this.#shown.length < 2 ? 0 : (this.#shown.length - 1) / ((this.#shown.at(-1) - this.#shown[0]) / 1000);
  }

  close() {
    this.clear();
    this.#now?.close();
    this.#now = null;
  }

  #tick(now) {
    if (this.#queue.length === 0) {
      this.#running = false;
      return;
    }
    if (now >= this.#due) {
      const period = 1000 / this.fps;
      this.#due = Math.max(this.#due + period * this.#pace, now - period);
      this.#shown.push(now);
      this.#show(true);
      this.#keepUp();
    }
    requestAnimationFrame((time) => this.#tick(time));
  }

  // Play a little faster while chunks come sooner than they are needed, as after every wait.
  #keepUp() {
    this.#low = Math.min(this.#low, this.#queue.length);
    if (this.position % this.chunk !== 0) return;
    const spare = this.#low / this.fps;
    this.#pace = spare > 1 ? 0.85 : spare > SPARE ? 0.93 : 1;
    this.#low = Infinity;
  }

  #show(draw) {
    const { position, bitmap } = this.#queue.shift();
    this.position = position;
    this.#now?.close();
    this.#now = bitmap;
    if (draw) this.#draw();
    this.shown(position, bitmap);
  }

  #fit() {
    if (!this.width) return;
    // A whole multiple of the video's size: every pixel of it is enlarged alike.
    const wanted = Math.min(LARGEST, this.canvas.clientWidth * Math.min(2, devicePixelRatio));
    const times = Math.max(1, Math.ceil(wanted / this.width - 0.05));
    if (this.canvas.width === this.width * times && this.canvas.height === this.height * times) return;
    this.canvas.width = this.width * times;
    this.canvas.height = this.height * times;
    this.#draw();
  }

  #draw() {
    if (!this.#now) return;
    this.context.imageSmoothingEnabled = true;
    this.context.imageSmoothingQuality = "high"; // a bicubic filter; "low" shows the grid of the small picture
    this.context.drawImage(this.#now, 0, 0, this.canvas.width, this.canvas.height);
  }
}
