// The address of a view: `#/view/part/part?parameter=value`. Pure.

/** Returns the view that `hash` names, its parts and its parameters. */
export function readAddress(hash) {
  const [path, search = ""] = splitOnce(hash.replace(/^#\/?/, ""), "?");
  const [view, ...parts] = path.split("/").map(decoded);
  return { view: view || "fleet", parts: parts.filter(Boolean), params: Object.fromEntries(new URLSearchParams(search)) };
}

/** Returns the hash of a view; parameters that are empty or not there are left out. */
export function addressOf(view, parts = [], params = {}) {
  const kept = Object.entries(params).filter(([, value]) => value !== undefined && value !== "");
  const search = new URLSearchParams(kept).toString();
  const path = [view === "fleet" ? "" : view, ...parts].filter((part, i) => i === 0 || part !== "").map(encodeURIComponent).join("/");
  return `#/${path}${search && `?${search}`}`;
}

/** Returns the hash of the page of a shadow; `name` is empty for the classic one. */
export const deviceAddress = (device, name = "", params = {}) => addressOf("device", [device, name], params);

function splitOnce(text, by) {
  const at = text.indexOf(by);
  return at < 0 ? [text] : [text.slice(0, at), text.slice(at + 1)];
}

/** Returns a part of an address, which anybody may have typed. */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return "";
  }
}
