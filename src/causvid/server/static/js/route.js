// The films on the page, in its address: back, forward and reload bring them back.

const store = (name, value) => {
  try {
    sessionStorage.setItem(name, value);
  } catch {
    // then a reload begins with the film's first frame
  }
};

// Return the identifiers of the sessions in the address.
export function read() {
  return location.hash.slice(1).split("+").filter((one) => /^[\w-]{1,64}$/.test(one)).slice(0, 2);
}

// instead: of the films that were there, which cannot be returned to.
export function write(sessions, instead = false) {
  const hash = sessions.length ? `#${sessions.join("+")}` : "";
  if (hash === location.hash) return;
  history[instead ? "replaceState" : "pushState"](null, "", hash || location.pathname);
}

export function whenLeft(listener) {
  addEventListener("popstate", listener);
}

export function remember(session, position, follows) {
  store(`film ${session}`, JSON.stringify({ position, follows }));
}

// Return what is known about a session: from which frame on to show it, and whether it follows a video.
export function recall(session, seconds, fps) {
  try {
    const { position, follows } = JSON.parse(sessionStorage.getItem(`film ${session}`));
    return { position: Math.max(0, position - Math.round(seconds * fps)), follows };
  } catch {
    return { position: 0, follows: false };
  }
}
