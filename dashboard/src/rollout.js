// Rollouts: the description that a form makes, and what the state of one means. Pure.

import { astray } from "./json.js";
import { isObject, leaves } from "./state.js";

const FINAL = ["completed", "aborted", "cancelled", "rolled-back"];
export const isFinal = (state) => FINAL.includes(state);

const ACTIONS = {
  pause: ["running"],
  resume: ["paused"],
  cancel: ["running", "paused"],
  rollback: ["running", "paused", "completed", "aborted", "cancelled"],
};

/** Returns the commands that a rollout takes in a state. */
export const actionsOf = (state) => Object.keys(ACTIONS).filter((action) => ACTIONS[action].includes(state));

/** The states of a device: the name in lists, the name in counts, the title and the tone. */
export const DEVICE_STATES = [
  ["queued", "queued", "Queued", ""],
  ["sent", "sent", "Sent", "busy"],
  ["converged", "converged", "Converged", "good"],
  ["timed-out", "timedOut", "Timed out", "bad"],
  ["conflict", "conflict", "Conflict", "bad"],
  ["failed", "failed", "Failed", "bad"],
  ["skipped", "skipped", "Skipped", "warn"],
  ["rolled-back", "rolledBack", "Rolled back", "warn"],
  ["kept", "kept", "Kept", "warn"],
];

const FAILURES = ["timedOut", "conflict", "failed"];
const UNFINISHED = ["queued", "sent"];

export const failuresOf = (counts) => FAILURES.reduce((sum, name) => sum + (counts[name] ?? 0), 0);

/** Returns for each wave its state, its first device and the one after its last, and how many of its devices are sent and finished. */
export function wavesOf({ waves, devices, counts }) {
  const unfinished = UNFINISHED.reduce((sum, name) => sum + (counts[name] ?? 0), 0);
  // A wave begins when the one before has ended, so what is finished fills them in their order.
  const [sent, finished] = [devices - (counts.queued ?? 0), devices - unfinished];
  let from = 0;
  return waves.map(({ size, state }) => {
    const within = (count) => Math.max(0, Math.min(size, count) - from);
    const wave = { state, from, to: size, sent: within(sent), finished: within(finished) };
    from = size;
    return wave;
  });
}

/** Returns the waves that `text` lists: numbers and percentages, as a description has them. */
export function parseWaves(text) {
  const parts = text.split(/[\s,]+/).filter(Boolean);
  const waves = parts.map((part) => (/^\d+$/.test(part) && Number(part) > 0 ? Number(part) : /^\d+(\.\d+)?%$/.test(part) && parseFloat(part) > 0 && parseFloat(part) <= 100 ? part : undefined));
  const wrong = parts[waves.indexOf(undefined)];
  if (wrong !== undefined) throw new Error(`'${wrong}' is neither a number of devices nor a percentage up to 100%`);
  if (waves.at(-1) !== "100%") throw new Error("the last wave is 100%");
  return waves;
}

/** Returns what is expected of each device: a line for each path, `/desired/mode = "eco"` or `/desired/mode absent`. */
export function parseExpect(text) {
  return text.split("\n").map((line) => line.trim()).filter(Boolean).map((line) => {
    const [, path, , value] = line.match(/^(\/\S*)\s*(=\s*(.+)|absent)$/) ?? [];
    if (path === undefined) throw new Error(`'${line}' is not of the form /desired/mode = "eco", or /desired/mode absent`);
    if (value === undefined) return { path, absent: true };
    try {
      return { path, value: JSON.parse(value) };
    } catch {
      throw new Error(`the value in '${line}' is not JSON; a text is in quotes`);
    }
  });
}

function parsePatch(text) {
  let value;
  try {
    value = JSON.parse(text.trim() || "{}");
  } catch (error) {
    throw new Error(`this is not JSON yet: ${error.message}`);
  }
  const wrong = isObject(value) ? astray(text) : "the outermost value must be an object";
  if (wrong) throw new Error(wrong);
  return value;
}

function parseNumber(text, { min, max, whole = true }) {
  const number = Number(text);
  if (text.trim() === "" || !(number >= min && number <= max) || (whole && !Number.isInteger(number))) throw new Error(`a ${whole ? "whole number" : "number"} from ${min} to ${max.toLocaleString("en")} is needed`);
  return number;
}

/** The form as it is first. `how`: "bulk" or "waves". */
export const EMPTY = {
  select: "query", query: "", devices: "", shadow: "", desired: "{}", tags: "{}", expect: "", how: "waves", waves: "10, 10%, 100%", rate: "",
  success: "converged", successQuery: "", deadline: "600", failures: "2", percent: "", later: false, paused: false,
};

/** Returns the description of the form, and what is wrong by field: the description is only whole when nothing is. */
export function described(form) {
  const problems = {};
  const take = (field, read) => {
    try {
      return read();
    } catch (error) {
      problems[field] = error.message;
      return undefined;
    }
  };
  const need = (condition, text) => {
    if (!condition) throw new Error(text);
  };
  const spec = {};
  if (form.select === "query") spec.query = take("query", () => (need(form.query.trim() !== "", "which devices? * stands for all"), form.query.trim()));
  else spec.devices = take("devices", () => listed(form.devices));
  if (form.shadow.trim()) spec.shadow = form.shadow.trim();
  const patch = {};
  for (const section of ["desired", "tags"]) {
    const value = take(section, () => parsePatch(form[section]));
    if (value && leaves(value).size > 0) patch[section] = value;
  }
  if (!problems.desired && !problems.tags) take("desired", () => need(Object.keys(patch).length > 0, "what is to change?"));
  spec.patch = patch;
  const expect = take("expect", () => parseExpect(form.expect));
  if (expect?.length > 0) spec.expect = expect;
  if (form.rate.trim()) spec.rate = take("rate", () => parseNumber(form.rate, { min: 1, max: 10_000 }));
  if (form.how === "waves") Object.assign(spec, inWaves(form, take, need));
  return { spec, problems };
}

function listed(text) {
  const ids = text.split(/[\s,]+/).filter(Boolean);
  if (ids.length === 0) throw new Error("which devices? Their ids, with blanks between");
  const twice = ids.find((id, i) => ids.indexOf(id) !== i);
  if (twice !== undefined) throw new Error(`${twice} is there twice`);
  return ids;
}

function inWaves(form, take, need) {
  const spec = { waves: take("waves", () => parseWaves(form.waves)) };
  spec.success = form.success === "query" ? take("successQuery", () => (need(form.successQuery.trim() !== "", "which query is true for a device that has succeeded?"), `query: ${form.successQuery.trim()}`)) : form.success;
  if (form.success !== "accepted") spec.deadlineSeconds = take("deadline", () => parseNumber(form.deadline, { min: 1, max: 2_592_000 }));
  const abort = {};
  if (form.failures.trim()) abort.failures = take("failures", () => parseNumber(form.failures, { min: 0, max: 100_000 }));
  if (form.percent.trim()) abort.percent = take("percent", () => parseNumber(form.percent, { min: 0, max: 100, whole: false }));
  if (Object.keys(abort).length > 0) spec.abort = abort;
  if (form.later && form.select === "query") spec.laterDevices = true;
  if (form.paused) spec.paused = true;
  return spec;
}

/** Returns the id that is suggested for a rollout that begins now. */
export function suggestedId(now = new Date()) {
  const two = (number) => String(number).padStart(2, "0");
  return `change-${now.getFullYear()}${two(now.getMonth() + 1)}${two(now.getDate())}-${two(now.getHours())}${two(now.getMinutes())}${two(now.getSeconds())}`;
}
