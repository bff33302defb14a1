// Values and times as people read them.

/** A JSON value in a line; what is not there is a dash. */
export function shown(value) {
  if (value === undefined) return "—";
  return typeof value === "string" ? value || '""' : JSON.stringify(value);
}

/** How long ago, roughly. `at` and `now` in seconds. */
export function ago(at, now = Date.now() / 1000) {
  const seconds = Math.max(0, Math.round(now - at));
  if (seconds < 5) return "now";
  for (const [unit, length] of [["d", 86_400], ["h", 3_600], ["min", 60]]) {
    if (seconds >= length) return `${Math.floor(seconds / length)} ${unit} ago`;
  }
  return `${seconds} s ago`;
}

/** The time of day, and the date if it is another one. */
export function clock(at) {
  const date = new Date(at * 1000);
  const time = date.toLocaleTimeString([], { hour12: false });
  return date.toDateString() === new Date().toDateString() ? time : `${date.toLocaleDateString()} ${time}`;
}

/** The text of a refusal: its message, and its detail where that adds something. */
export function explained({ message = "", detail = "" }) {
  if (!message || detail.includes(message)) return detail;
  return !detail || message.includes(detail) ? message : `${message}: ${detail}`;
}

/** The word for a connection that is known to be there, known to be gone, or not known. */
export const presence = (connected) => (connected === undefined ? "unknown" : connected ? "connected" : "away");

/** A path without its section, with dots. */
export function field(pointer) {
  return pointer.split("/").slice(1).map((key) => key.replaceAll("~1", "/").replaceAll("~0", "~")).join(".");
}

/** A size with one digit after the point, in the largest unit that it fills. */
export function bytes(number) {
  for (const [unit, length] of [["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]]) {
    if (number >= length) return `${(number / length).toFixed(1)} ${unit}`;
  }
  return `${number} B`;
}

export const count = (number) => number.toLocaleString("en");

export const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;
