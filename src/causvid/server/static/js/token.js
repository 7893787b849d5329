// The secret of a server that has one: from `?token=…` of the page's address, or typed in; kept for this tab alone.

const page = new URL(location.href);
if (page.searchParams.has("token")) {
  sessionStorage.setItem("token", page.searchParams.get("token"));
  page.searchParams.delete("token");
  history.replaceState(null, "", page);
}
const token = sessionStorage.getItem("token") ?? "";

export const headers = token ? { Authorization: `Bearer ${token}` } : {};

// Where a browser cannot send headers: WebSockets and downloads.
export function withToken(address) {
  if (!token) return address;
  return `${address}${address.includes("?") ? "&" : "?"}token=${encodeURIComponent(token)}`;
}

export function askForToken() {
  const typed = prompt(token ? "The token is wrong. Token of this server:" : "Token of this server:");
  if (!typed) return;
  sessionStorage.setItem("token", typed.trim());
  location.reload();
}
