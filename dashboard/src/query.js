// The text of a query: the term at the caret, the texts that complete it, and the column of an error. Pure.
//
// The language is that of docs/search.md. The service parses it; here is only as much of it as completion needs.

const SPECIAL = /[\s.:()[\]{}"'<>=!&|^~\\`*?,]/g;
const PLAIN_VALUE = /^[\w@%/+][\w@%/+.-]*$/;
const KEYWORDS = ["AND", "OR", "NOT", "TO"];
/** Beginnings of a value that are not of the value itself. */
const OPERATORS = /^(?:>=|<=|>|<|=)/;
const HAS_OR = /(^|[\s)])OR([\s(]|$)/;

/** A field without a path, with the kind of its values. */
export const FIELDS = [
  { name: "device", kind: "device", about: "device id" },
  { name: "connected", kind: "flag", about: "is connected" },
  { name: "drift", kind: "flag", about: "a shadow has a delta" },
  { name: "updated", kind: "age", about: "time since the last change" },
  { name: "seen", kind: "age", about: "time since the last connection" },
  { name: "version", kind: "number", about: "version of the classic shadow" },
];
/** Beginnings of fields that go on with a path. */
export const PARTS = ["reported", "desired", "tags", "delta", "shadow.name"];

const VALUES = {
  flag: ["true", "false"],
  age: ["<5m", "<1h", "<1d", ">1h", ">1d", ">7d"],
  number: [">1", ">100", ">1000"],
};

/** Returns the values that fields of this name have whatever the fleet is; `undefined` where only the fleet knows. */
export function fixedValues(field) {
  const own = FIELDS.find(({ name }) => name === field) ?? FIELDS.find(({ name }) => field.startsWith("shadow.") && field.endsWith(`.${name}`) && !/\.(reported|desired|tags|delta)\./.test(field));
  if (field.endsWith(".hasDelta")) return VALUES.flag;
  if (field === "connectivity.connected") return VALUES.flag;
  return own ? VALUES[own.kind] : undefined;
}

/** Returns true if `field` is one that may have values of which only the fleet knows. */
export const hasValues = (field) => /^(shadow\.name\.[^.]+\.|shadow\.)?(reported|desired|tags|delta)\../.test(field) || /^(attributes\..|thingTypeName$|thingGroupNames$)/.test(field);

/** Returns a key as a query spells it: characters of the syntax take a backslash. */
export const escaped = (key) => key.replace(SPECIAL, "\\$&");

/** Returns the name of the field at these keys. */
export const fieldName = (keys) => keys.map(escaped).join(".");

/** Returns the keys of a field's name: a backslash takes the next character as it is. */
export function fieldKeys(name) {
  const keys = [""];
  for (let i = 0; i < name.length; i += 1) {
    if (name[i] === ".") keys.push("");
    else keys[keys.length - 1] += name[i] === "\\" && i + 1 < name.length ? name[(i += 1)] : name[i];
  }
  return keys;
}

/** Returns a value of a field as a query spells it. */
export function valueText(value) {
  const text = String(value);
  if (PLAIN_VALUE.test(text) && !KEYWORDS.includes(text)) return text;
  return `"${text.replace(/[\\"]/g, "\\$&")}"`;
}

/** Returns the query that is sent for what was typed: a word alone is a part of a device id. */
export function expanded(typed) {
  const text = typed.trim();
  const isWord = /^[A-Za-z0-9_][A-Za-z0-9_-]*$/.test(text) && !KEYWORDS.includes(text);
  return isWord ? `*${text}*` : text;
}

/**
 * Returns what the caret is at: `{kind: "field", text, from, to}` or `{kind: "value", field, text, from, to}`, where `text` was
 * typed up to the caret and `from` to `to` is what a completion replaces. Returns `null` inside a range.
 */
export function termAt(query, caret) {
  const outer = [];
  let [start, colon, field] = [0, -1, undefined];
  let isQuoted = false;
  const begin = (at) => ([start, colon] = [at, -1]);
  for (let i = 0; i < caret; i += 1) {
    const char = query[i];
    if (char === "\\") i += 1;
    else if (char === '"') isQuoted = !isQuoted;
    else if (isQuoted) continue;
    else if (char === "(") {
      outer.push(field);
      if (colon >= 0 && query.slice(colon + 1, i) === "") field = query.slice(start, colon);
      begin(i + 1);
    } else if (char === ")") {
      field = outer.pop();
      begin(i + 1);
    } else if (char === "[" || char === "{") {
      const end = query.slice(i, caret).search(/[\]}]/);
      if (end < 0) return null;
      i += end;
    } else if (/\s/.test(char)) begin(i + 1);
    else if ((char === "-" || char === "+") && i === start) begin(i + 1);
    else if (char === ":" && colon < 0 && !field) colon = i;
  }
  const rest = query.slice(caret).match(isQuoted ? /^[^"]*"?/ : /^(?:\\.|[^\s()"\\])*/)[0];
  const value = (of, from) => {
    const operator = query.slice(from, caret).match(OPERATORS)?.[0] ?? "";
    const text = query.slice(from, caret).replace(/^"/, "").replace(/\\(.)/g, "$1");
    return { kind: "value", field: of, text, operator, from, to: caret + rest.length };
  };
  if (field) return value(field, start);
  if (colon >= 0) return value(query.slice(start, colon), colon + 1);
  if (isQuoted) return null;
  return { kind: "field", text: query.slice(start, caret), from: start, to: caret + rest.match(/^[^:]*:?/)[0].length };
}

/** Returns `query` with a part replaced, and the place of the caret after it. */
export function completed(query, { from, to }, text) {
  const before = query.slice(0, from) + text;
  // A value is complete: the next term is after a blank.
  return { query: before + query.slice(to), caret: before.length };
}

/** Returns the fields that begin with or contain `text`; `known` are those of the fleet, the most frequent first. */
export function matchingFields(text, known, max = 12) {
  const needle = text.toLowerCase();
  const all = [
    ...FIELDS.map(({ name, about }) => ({ insert: `${name}:`, label: name, about })),
    ...PARTS.map((name) => ({ insert: `${name}.`, label: `${name}.…`, about: "" })),
    ...known.map(({ name, about }) => ({ insert: `${name}:`, label: name, about })),
  ];
  const starts = all.filter(({ label }) => label.toLowerCase().startsWith(needle));
  const contains = needle.length < 2 ? [] : all.filter(({ label }) => !label.toLowerCase().startsWith(needle) && label.toLowerCase().includes(needle));
  return [...starts, ...contains].filter(({ insert }) => insert !== text).slice(0, max);
}

/** Returns the values that contain `text`, spelled for a query. */
export function matchingValues(text, values, max = 12) {
  const needle = text.toLowerCase();
  return values.filter(({ value }) => String(value).toLowerCase().includes(needle)).slice(0, max);
}

/** Returns the column (from 0) and the reason of an error of a query; without a column where the service names none. */
export function queryError(message = "") {
  const parts = message.match(/^Invalid parameter '(\w+)': (?:column (\d+): )?(.*)$/s);
  if (!parts) return { parameter: undefined, column: undefined, reason: message };
  return { parameter: parts[1], column: parts[2] === undefined ? undefined : Number(parts[2]) - 1, reason: parts[3] };
}

/** Returns true if `query` has `term` as one that all matches fulfil. */
export function hasTerm(query, term) {
  return !HAS_OR.test(query) && query.trim().split(/\s+/).includes(term);
}

/** Returns `query` with `term` as a condition of all matches, or without it. */
export function toggled(query, term) {
  if (hasTerm(query, term)) return query.trim().split(/\s+/).filter((part) => part !== term).join(" ").replace(/^AND | AND$/g, "");
  const own = expanded(query);
  if (own === "" || own === "*") return term;
  return `${HAS_OR.test(own) ? `(${own})` : own} ${term}`;
}

/** Returns the query for these devices. */
export const devicesQuery = (ids) => (ids.length === 1 ? `device:${valueText(ids[0])}` : `device:(${ids.map(valueText).join(" OR ")})`);
