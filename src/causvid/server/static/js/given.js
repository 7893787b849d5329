// What a film starts from besides its prompt: a picture, a video, or the camera.

import { Camera, cover } from "./camera.js";
import { $, make } from "./dom.js";
import { about, upload } from "./server.js";

const box = $("given");
const picture = $("given-picture");
const choice = $("given-choice");

export const camera = new Camera(picture);
let given = null; // { kind, id, name, use }
let on = { ready() {}, problem() {}, changed() {} };

export function listen(listeners) {
  on = { ...on, ...listeners };
}

// Return the part of a request that says what the film starts from.
export function request() {
  if (camera.on) return { source: "camera" };
  if (!given) return {};
  return { [given.kind === "image" ? "image" : given.use]: given.id };
}

export const follows = () => camera.on || given?.use === "source";

export function clear() {
  given = null;
  if (camera.on) camera.close();
  show();
}

async function take(file) {
  const kind = file.type.startsWith("image/") ? "image" : "video";
  if (!/^(image|video)\//.test(file.type)) return on.problem(`${file.name} is neither a picture nor a video.`);
  clear();
  given = { kind, name: file.name, id: null, use: null };
  const mine = given;
  show("Uploading");
  if (kind === "image") thumbnail(createImageBitmap(file));
  try {
    const { id, kind: found } = await upload(file);
    if (mine !== given) return;
    Object.assign(given, { id, kind: found === "image" || found === "video" ? found : kind });
    show();
    if (given.kind === "image") on.ready();
  } catch (error) {
    if (mine === given) clear();
    on.problem(`${file.name} cannot be used: ${error.message}`);
  }
}

async function thumbnail(promise) {
  const bitmap = await promise.catch(() => null);
  if (!bitmap) return;
  cover(picture, bitmap, bitmap.width, bitmap.height);
  bitmap.close();
}

function use(way) {
  given.use = way;
  show();
  on.ready();
}

function show(doing = "") {
  box.hidden = !given && !camera.on;
  if (box.hidden) picture.getContext("2d").clearRect(0, 0, picture.width, picture.height);
  picture.hidden = given?.kind === "video";
  $("camera").setAttribute("aria-pressed", String(camera.on));
  choice.replaceChildren();
  if (camera.on) $("given-text").textContent = "Your camera is translated into what the prompt says.";
  else if (given) {
    const said = { image: "The film starts from", video: "Film" }[given.kind];
    const ways = { source: "Translates", after: "Continues" };
    $("given-text").textContent = doing ? `${doing} ${given.name}` : `${ways[given.use] ?? said} ${given.name}`;
    if (given.kind === "video" && given.id)
      for (const [way, name] of [["source", "Translate it"], ["after", "Continue it"]]) {
        const button = make("button", { type: "button", className: "small", textContent: name });
        button.setAttribute("aria-pressed", String(given.use === way));
        button.addEventListener("click", () => use(way));
        choice.append(button);
      }
  }
  on.changed();
}

async function toggleCamera() {
  if (camera.on) return clear();
  clear();
  try {
    await camera.open(about());
    show();
    on.ready();
  } catch (error) {
    on.problem(error.message);
  }
}

camera.ended = clear;
$("camera").addEventListener("click", toggleCamera);
$("choose").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", ({ target }) => {
  if (target.files[0]) take(target.files[0]);
  target.value = "";
});
$("given-remove").addEventListener("click", clear);

// A file may be dropped anywhere, and pasted.
const drop = $("drop");
addEventListener("dragover", (event) => {
  if (![...event.dataTransfer.types].includes("Files")) return;
  event.preventDefault();
  drop.hidden = false;
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) drop.hidden = true;
});
addEventListener("drop", (event) => {
  drop.hidden = true;
  if (!event.dataTransfer.files.length) return;
  event.preventDefault();
  take(event.dataTransfer.files[0]);
});
addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) take(event.clipboardData.files[0]);
});
