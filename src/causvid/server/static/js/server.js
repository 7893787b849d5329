// Requests to the server that are not part of a live session.

import { askForToken, headers, withToken } from "./token.js";

let model = { vocabulary: null, examples: [], fps: 12, height: 64, width: 96 };

export const about = () => model;
export const knowsWords = () => model.vocabulary !== null;

async function answer(response) {
  if (response.ok) return response.json();
  if (response.status === 401) askForToken();
  const body = await response.json().catch(() => ({}));
  const message = body.error?.message ?? body.detail ?? `The server answered ${response.status}.`;
  throw new Error(typeof message === "string" ? message : JSON.stringify(message));
}

export async function loadAbout() {
  model = { ...model, ...(await answer(await fetch("/v1/about", { headers }))) };
  return model;
}

export function setVocabulary(vocabulary) {
  model = { ...model, vocabulary };
}

// Return the words that the model has never seen, and those that it reads as others: [word, other].
export async function readWords(prompt) {
  const response = await fetch("/v1/words", {
    method: "POST",
    headers: { ...headers, "Content-Type": "application/json" },
    body: JSON.stringify({ prompt }),
  });
  return answer(response);
}

// Upload a picture or a video; returns its id and its kind.
export async function upload(file) {
  const form = new FormData();
  form.append("file", file, file.name || "file");
  return answer(await fetch("/v1/files", { method: "POST", headers, body: form }));
}

export const exportAddress = (session, format) =>
  withToken(`/v1/sessions/${encodeURIComponent(session)}/export?format=${format}`);
