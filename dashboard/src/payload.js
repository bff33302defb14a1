// Payloads of messages, which are any bytes. Pure.

const UTF8 = new TextDecoder("utf-8", { fatal: true });
const HEX_MAX = 512;

/** Returns the bytes of a text in base64. */
export const bytesOf = (base64) => Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));

/** Returns how a payload is shown: `{kind: "empty" | "json" | "text" | "bytes", text}`. */
export function payloadText(bytes) {
  if (bytes.length === 0) return { kind: "empty", text: "" };
  let text;
  try {
    text = UTF8.decode(bytes);
  } catch {
    return { kind: "bytes", text: hex(bytes) };
  }
  // Control characters but white space are of no text.
  if (/[\u0000-\u0008\u000e-\u001f\u007f]/.test(text)) return { kind: "bytes", text: hex(bytes) };
  try {
    const value = JSON.parse(text);
    return value !== null && typeof value === "object" ? { kind: "json", text: JSON.stringify(value, null, 2) } : { kind: "text", text };
  } catch {
    return { kind: "text", text };
  }
}

/** The bytes of a payload beyond which a log of messages has only its beginning. */
const BRIEF_MAX = 65_536;
/** The characters that white space may make of them. */
const BRIEF_TEXT_MAX = 4 * BRIEF_MAX;

/** Returns a text of limited length for a payload. */
export function briefText(bytes) {
  if (bytes.length > BRIEF_MAX) return `${beginning(bytes.subarray(0, BRIEF_MAX))} … and ${bytes.length - BRIEF_MAX} more bytes`;
  const { text } = payloadText(bytes);
  return text.length > BRIEF_TEXT_MAX ? UTF8.decode(bytes) : text;
}

/** A character may be cut in two at the end. */
function beginning(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes, { stream: true });
  } catch {
    return hex(bytes);
  }
}

function hex(bytes) {
  const shown = [...bytes.subarray(0, HEX_MAX)].map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
  return bytes.length > HEX_MAX ? `${shown} … and ${bytes.length - HEX_MAX} more` : shown;
}

/** Returns what is wrong with a topic that is published to; an empty text if nothing is. */
export function topicProblem(topic) {
  if (topic === "") return "A topic has at least one character.";
  if (/[+#]/.test(topic)) return "A topic has no + or #; these are for filters.";
  return bytesProblem(topic, "topic");
}

/** Returns what is wrong with a filter that is subscribed to; an empty text if nothing is. */
export function filterProblem(filter) {
  if (filter === "") return "A filter has at least one character.";
  const levels = filter.split("/");
  if (levels.some((level, i) => level.includes("#") && (level !== "#" || i !== levels.length - 1))) return "A # is the last level of a filter, alone.";
  if (levels.some((level) => level.includes("+") && level !== "+")) return "A + is a whole level of a filter.";
  return bytesProblem(filter, "filter");
}

function bytesProblem(text, what) {
  if (/[\u0000-\u001f\u007f-\u009f]/.test(text)) return `A ${what} has no control characters.`;
  return new TextEncoder().encode(text).length > 65_535 ? `A ${what} has at most 65,535 bytes.` : "";
}
