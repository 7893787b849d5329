// The camera: its pictures at the model's own rate and size, for as long as a film follows it.

import { make } from "./dom.js";

export class Camera {
  #stream = null;
  #timer = 0;
  #busy = false;

  // preview: a canvas that shows what is sent.
  constructor(preview) {
    this.preview = preview;
    this.video = make("video", { muted: true, playsInline: true });
    this.ended = null;
  }

  get on() {
    return this.#stream !== null;
  }

  // Ask for the camera. Rejects with a plain message if there is none, or it is not allowed.
  async open({ width, height }) {
    if (!navigator.mediaDevices) throw new Error("This page cannot use a camera: it needs HTTPS, or localhost.");
    try {
      this.#stream = await navigator.mediaDevices.getUserMedia({
        video: { width: { ideal: Math.max(320, width) }, height: { ideal: Math.max(240, height) } },
      });
    } catch (error) {
      throw new Error(error.name === "NotAllowedError" ? "The camera was not allowed." : "There is no camera to use.");
    }
    for (const track of this.#stream.getTracks()) track.onended = () => this.ended?.();
    this.video.srcObject = this.#stream;
    await this.video.play();
    this.canvas = make("canvas", { width, height });
  }

  // Send pictures, `fps` a second, as blobs.
  follow(fps, send) {
    clearInterval(this.#timer);
    this.#timer = setInterval(() => this.#take(send), 1000 / fps);
  }

  close() {
    clearInterval(this.#timer);
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
    this.#stream = null;
    this.video.srcObject = null;
  }

  #take(send) {
    if (this.#busy || !this.video.videoWidth) return;
    const { width, height } = this.canvas;
    cover(this.canvas, this.video, this.video.videoWidth, this.video.videoHeight);
    cover(this.preview, this.canvas, width, height);
    this.#busy = true;
    this.canvas.toBlob(
      (blob) => {
        this.#busy = false;
        if (blob && this.on) send(blob);
      },
      "image/jpeg",
      0.9,
    );
  }
}

// Draw a picture so that it fills a canvas, cut at two of its sides.
export function cover(canvas, picture, width, height) {
  const scale = Math.max(canvas.width / width, canvas.height / height);
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(
    picture, (canvas.width - width * scale) / 2, (canvas.height - height * scale) / 2, width * scale, height * scale,
  );
}
