// A soft light around the film, of its own colours: a tiny picture that is stretched, which costs next to nothing.

import { $ } from "./dom.js";

const EVERY = 4; // frames
const canvas = $("glow");
const context = canvas.getContext("2d");
const still = matchMedia("(prefers-reduced-motion: reduce)");
let count = 0;

// Fade to nothing at the edges.
function fade(x0, y0, x1, y1) {
  const gradient = context.createLinearGradient(x0, y0, x1, y1);
  gradient.addColorStop(0, "transparent");
  gradient.addColorStop(0.3, "black");
  gradient.addColorStop(0.7, "black");
  gradient.addColorStop(1, "transparent");
  context.globalCompositeOperation = "destination-in";
  context.fillStyle = gradient;
  context.fillRect(0, 0, canvas.width, canvas.height);
}

export function glow(bitmap) {
  if (count++ % EVERY || (still.matches && count > 1)) return;
  const { width, height } = canvas;
  context.globalCompositeOperation = "source-over";
  context.globalAlpha = 0.5;
  context.imageSmoothingQuality = "medium";
  context.drawImage(bitmap, 0, 0, 6, 4);
  context.drawImage(canvas, 0, 0, 6, 4, 0, 0, width, height);
  context.globalAlpha = 1;
  fade(0, 0, width, 0);
  fade(0, 0, 0, height);
}
