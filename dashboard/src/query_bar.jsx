// The query of the list: typed with completion of fields and values, and errors shown at their column.

import { useEffect, useRef, useState } from "preact/hooks";

import { count } from "./format.js";
import { ask } from "./http.js";
import { completed, fieldName, fixedValues, hasValues, matchingFields, matchingValues, queryError, termAt, valueText } from "./query.js";
import { knownPaths } from "./fields.js";

const TYPED_MS = 300;
/** How long the values of a field are kept. */
const VALUES_MS = 30_000;

/** Fields and values of the fleet, and whether one may change it, as far as they were asked for. */
export class Vocabulary {
  constructor() {
    this.values = new Map();
    /** `undefined` until it was asked for. */
    this.mayChange = undefined;
  }

  /** Returns the fields that a part of the fleet has, the most frequent first. */
  async fields() {
    this.sample ??= ask("GET", "/v1/search?fields=reported,desired,tags&limit=100").then(
      ({ devices }) => knownPaths(devices.map(({ fields }) => fields)).map(({ keys, count: of }) => ({ name: fieldName(keys), about: `${count(of)} of ${count(devices.length)} looked at` })),
      () => {
        this.sample = undefined;
        return [];
      },
    );
    return this.sample;
  }

  /** Returns the most frequent values of a field; of `device`, the ids that begin with `text`. */
  async valuesOf(field, text) {
    const fixed = fixedValues(field);
    if (fixed) return fixed.map((value) => ({ value, insert: value, about: "" }));
    const isDevice = field === "device" || field === "thingName";
    const key = isDevice ? `${field}:${text}` : field;
    const kept = this.values.get(key);
    if (kept && performance.now() - kept.at < VALUES_MS) return kept.list;
    // The service would refuse others.
    if (isDevice ? !/^[\w:-]*$/.test(text) : !hasValues(field)) return [];
    const list = (isDevice ? this.devices(text) : this.terms(field)).catch(() => []);
    this.values.set(key, { at: performance.now(), list });
    return list;
  }

  async devices(prefix) {
    const { devices } = await ask("GET", `/v1/devices?limit=10&prefix=${encodeURIComponent(prefix)}`);
    return devices.map(({ id }) => ({ value: id, insert: valueText(id), about: "" }));
  }

  async terms(field) {
    const { terms } = await ask("GET", `/v1/aggregate?${new URLSearchParams({ type: "terms", size: 100, field })}`);
    return [...terms.map(({ value, count: of }) => ({ value, insert: valueText(value), about: count(of) })), { value: "*", insert: "*", about: "exists" }];
  }
}

/** `sent`: the query that `problem` is of. `delay`: how long one has not typed before `onQuery` is called. */
export function QueryBar({ query, sent, problem, vocabulary, delay = TYPED_MS, onQuery }) {
  const [text, setText] = useState(query);
  const [options, setOptions] = useState([]);
  const [active, setActive] = useState(-1);
  const input = useRef(null);
  const timer = useRef(undefined);
  /** The newest text: what is completed late is of an older one. */
  const newest = useRef(0);
  /** What was sent from here comes back as `query`, and may be older than what is typed. */
  const own = useRef(query);
  useEffect(() => {
    if (query !== own.current) setText((own.current = query));
  }, [query]);
  useEffect(() => () => clearTimeout(timer.current), []);

  const send = (next) => {
    clearTimeout(timer.current);
    own.current = next.trim();
    onQuery(own.current);
  };
  const type = (next) => {
    setText(next);
    clearTimeout(timer.current);
    if (delay === 0) send(next);
    else timer.current = setTimeout(() => send(next), delay);
    suggest(next);
  };
  const close = () => {
    newest.current += 1;
    setOptions([]);
    setActive(-1);
  };
  /** Where nothing is typed yet, the list would only cover the devices: it comes when it is asked for. */
  const suggest = async (of, isAsked = false) => {
    const term = termAt(of, input.current.selectionStart);
    const turn = (newest.current += 1);
    if (term === null || (term.kind === "field" && term.text === "" && !isAsked)) return close();
    const found = term.kind === "field" ? matchingFields(term.text, await vocabulary.fields()) : matchingValues(term.text, await vocabulary.valuesOf(term.field, term.text));
    if (turn !== newest.current) return;
    const list = found.map(({ label, value, insert, about }) => ({ label: label ?? String(value), about, insert: term.kind === "value" && term.operator && !OPERATOR.test(insert) ? term.operator + insert : insert, term }));
    setOptions(list.filter(({ insert }) => insert !== of.slice(term.from, term.to)));
    setActive(-1);
  };
  const choose = ({ insert, term }) => {
    const next = completed(text, term, insert);
    clearTimeout(timer.current);
    setText(next.query);
    // The caret goes there when the text is drawn.
    requestAnimationFrame(() => {
      input.current?.focus();
      input.current?.setSelectionRange(next.caret, next.caret);
      if (/[:.]$/.test(insert)) suggest(next.query);
      else send(next.query);
    });
    close();
  };
  const press = (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && options.length === 0) return void (event.key === "ArrowDown" && (event.preventDefault(), suggest(text, true)));
    if (step) {
      event.preventDefault();
      setActive((held) => ((held + step + 1 + options.length + 1) % (options.length + 1)) - 1);
    } else if (event.key === "Enter" || (event.key === "Tab" && active >= 0)) {
      event.preventDefault();
      if (active >= 0) choose(options[active]);
      else {
        close();
        send(text);
      }
    } else if (event.key === "Escape" && options.length > 0) {
      event.preventDefault();
      close();
    }
  };
  const error = problem && queryError(problem.message);
  const refusal = error?.parameter === "q" ? error : null;
  return (
    <div class="query">
      <input
        ref={input} type="search" role="combobox" aria-label="Query" placeholder="A part of an id, or a query: reported.firmware:1.4* drift:true — ↓ lists the fields" autocomplete="off" autocapitalize="none" spellcheck={false}
        aria-expanded={options.length > 0} aria-controls="query-options" aria-autocomplete="list" aria-activedescendant={active >= 0 ? `query-option-${active}` : undefined} aria-invalid={refusal ? "true" : "false"} aria-describedby="query-error"
        value={text} onInput={(event) => type(event.target.value)} onBlur={close} onKeyDown={press}
      />
      <ul id="query-options" class="options card" role="listbox" aria-label="Completions" hidden={options.length === 0}>
        {options.map((option, i) => (
          <li key={option.label} id={`query-option-${i}`} role="option" aria-selected={i === active} onMouseDown={(event) => { event.preventDefault(); choose(option); }}>
            <code>{option.label}</code> <small>{option.about}</small>
          </li>
        ))}
      </ul>
      <div id="query-error" role="alert">{refusal && <QueryProblem query={sent} {...refusal} />}</div>
    </div>
  );
}

const OPERATOR = /^[<>=*]/;

/** The text as it was sent, with a mark at the column of the error. */
function QueryProblem({ query, column, reason }) {
  const at = column === undefined ? undefined : [...query];
  return (
    <p class="problem">
      {at && <code class="where">{at.slice(0, column).join("")}<mark>{at[column] ?? "\u00a0"}</mark>{at.slice(column + 1).join("")}</code>}
      <span>{column !== undefined && <b>Column {column + 1}: </b>}{reason}</span>
    </p>
  );
}

