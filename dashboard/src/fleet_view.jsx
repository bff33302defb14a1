// The list of devices: a query, the columns and the order, all of it in the address.

import { useEffect, useMemo, useRef, useState } from "preact/hooks";

import { addressOf } from "./address.js";
import { DeviceTable } from "./device_table.jsx";
import { CreateDevice } from "./devices_dialogs.jsx";
import { COLUMNS, title } from "./fields.js";
import { FirstDevice } from "./first_device.jsx";
import { count, plural } from "./format.js";
import { useChanges, useDraw, useNow } from "./frames.js";
import { mayWrite } from "./http.js";
import { Menu } from "./menu.jsx";
import { devicesQuery, expanded, hasTerm, queryError, toggled } from "./query.js";
import { QueryBar } from "./query_bar.jsx";
import { useTotals } from "./totals.js";
import { removeView, savedViews, saveView } from "./views.js";

/** Columns that the service is not asked for. */
const OWN = ["conflicts"];
const COLUMNS_MAX = 16;
/** Devices of a query that names them; the service takes 64 terms. */
const NAMED_MAX = 60;

/** The address of the list when it was left. */
let remembered = "#/";
export const fleetAddress = () => remembered;

export function FleetView({ fleet, listing, vocabulary, params, session }) {
  useChanges(fleet);
  const now = useNow(5000);
  const totals = useTotals();
  const [state, setState] = useState(params);
  useEffect(() => setState(params), [params]);
  const { q = "", sort = "device", columns: chosen } = state;
  const columns = useMemo(() => (chosen === undefined ? COLUMNS : chosen.split(",").filter(Boolean).slice(0, COLUMNS_MAX)), [chosen]);
  const change = (part) => {
    const next = { ...state, ...part };
    setState(next);
    history.replaceState(null, "", stateAddress(next));
  };
  remembered = stateAddress(state);

  const [creating, setCreating] = useState(false);
  const draw = useDraw();
  const wanted = { q: expanded(q) === "*" ? "" : expanded(q), sort, fields: ["connected", "drift", "updated", "version", ...columns].filter((name, i, all) => !OWN.includes(name) && all.indexOf(name) === i) };
  useEffect(() => listing.show(wanted, draw), [JSON.stringify(wanted)]);
  const mayChange = useMayChange(listing.order()[0], vocabulary);
  const conflictIds = [...fleet.conflicts.keys()].slice(-NAMED_MAX);
  const conflictQuery = conflictIds.length > 0 && devicesQuery(conflictIds);
  const total = listing.total;
  const devices = q === "" && total !== undefined ? total : totals?.devices;
  const create = creating && <CreateDevice onClose={() => setCreating(false)} />;
  if (q === "" && !listing.loading && !listing.problem && total === 0) return <><FirstDevice session={session} onCreate={() => setCreating(true)} />{create}</>;
  const elsewhere = listing.problem && queryError(listing.problem.message).parameter !== "q";

  return (
    <section class="fleet" aria-labelledby="fleet-title">
      <div class="title">
        <h1 id="fleet-title">Fleet</h1>
        <span class="muted" role="status">
          {devices !== undefined && (q === "" ? plural(devices, "device") : total !== undefined && `${count(total)} of ${plural(devices, "device")}`)}
          {listing.loading && " · loading…"}
        </span>
        <span class="spring" />
        {mayChange && total > 0 && <a class="button" href={addressOf("rollouts", ["new"], { q: wanted.q || "*" })}>{`Change ${q === "" ? "all" : "these"}`}</a>}
        {mayChange && <button onClick={() => setCreating(true)}>Create a device</button>}
      </div>
      {elsewhere && <p class="problem" role="alert">The list could not be read: {listing.problem.message}</p>}
      <div class="tiles">
        <Tile label="Devices" value={devices} pressed={q === ""} onClick={() => change({ q: "" })} />
        <Tile label="Connected" value={totals && (totals.known > 0 || totals.devices === 0 ? totals.connected : "unknown")} tone={totals?.known > 0 ? "good" : "none"} pressed={hasTerm(q, "connected:true")} onClick={() => change({ q: toggled(q, "connected:true") })} />
        <Tile label="Drifting" value={totals?.drift} tone="warn" pressed={hasTerm(q, "drift:true")} onClick={() => change({ q: toggled(q, "drift:true") })} />
        <Tile label="Conflicts seen" value={fleet.conflictCount()} tone="bad" pressed={q !== "" && q === conflictQuery} onClick={() => change({ q: q === conflictQuery || !conflictQuery ? "" : conflictQuery })} />
      </div>
      <div class="filters" role="search">
        <QueryBar query={q} sent={listing.wanted?.q ?? ""} problem={listing.problem} vocabulary={vocabulary} onQuery={(next) => change({ q: next })} />
        <Columns columns={columns} vocabulary={vocabulary} onChange={(next) => change({ columns: next && next.join(",") })} />
        <Views address={remembered} />
      </div>
      {create}
      <DeviceTable listing={listing} conflicts={fleet.conflicts} columns={columns} sort={sort} onSort={(next) => change({ sort: next })} now={now} />
    </section>
  );
}

/** Whether one may change devices, going by the first of the list: who may only look is offered nothing else. */
function useMayChange(first, vocabulary) {
  const [may, setMay] = useState(vocabulary.mayChange);
  useEffect(() => {
    if (first === undefined || may !== undefined) return;
    mayWrite(first, "", { desired: {} }).then((found) => setMay((vocabulary.mayChange = found)));
  }, [first === undefined]);
  return may === true;
}

/** No columns are other ones than the default. */
const stateAddress = ({ q, sort, columns }) => addressOf("fleet", [], { q, sort: sort === "device" ? "" : sort, columns: columns === "" ? "," : columns });

function Tile({ label, value, tone = "", pressed, onClick }) {
  return (
    <button class={`tile ${tone}`} aria-pressed={pressed} onClick={onClick}>
      <b>{typeof value === "number" ? count(value) : value ?? "…"}</b>
      <span>{label}</span>
    </button>
  );
}

function Columns({ columns, vocabulary, onChange }) {
  return (
    <Menu label="Columns" align="right">
      <ColumnsPanel columns={columns} vocabulary={vocabulary} onChange={onChange} />
    </Menu>
  );
}

function ColumnsPanel({ columns, vocabulary, onChange }) {
  const [known, setKnown] = useState([]);
  const [name, setName] = useState("");
  const form = useRef(null);
  useEffect(() => {
    vocabulary.fields().then((fields) => setKnown(fields.map((field) => field.name)));
  }, []);
  const all = [...new Set([...columns, ...COLUMNS, "seen", ...known.slice(0, 40)])];
  const add = (event) => {
    event.preventDefault();
    if (name.trim() && !columns.includes(name.trim())) onChange([...columns, name.trim()]);
    setName("");
  };
  return (
    <>
      <form class="line" ref={form} onSubmit={add}>
        <input aria-label="Field for a column" placeholder="reported.firmware" list="known-fields" value={name} onInput={(event) => setName(event.target.value)} autocapitalize="none" spellcheck={false} />
        <datalist id="known-fields">{known.map((field) => <option key={field} value={field} />)}</datalist>
        <button disabled={columns.length >= COLUMNS_MAX}>Add</button>
      </form>
      <fieldset class="checks">
        <legend>Columns</legend>
        {all.map((column) => (
          <label key={column} class="check">
            <input type="checkbox" checked={columns.includes(column)} disabled={!columns.includes(column) && columns.length >= COLUMNS_MAX} onChange={(event) => onChange(event.target.checked ? [...columns, column] : columns.filter((other) => other !== column))} />
            {title(column)}
          </label>
        ))}
      </fieldset>
      <button type="button" onClick={() => onChange(undefined)}>Default columns</button>
    </>
  );
}

function Views({ address }) {
  const [views, setViews] = useState(savedViews);
  const [name, setName] = useState("");
  const save = (event) => {
    event.preventDefault();
    if (name.trim() !== "") setViews(saveView(name.trim(), address));
    setName("");
  };
  return (
    <Menu label="Views" align="right" title="Queries that are saved in this browser">
      <form class="line" onSubmit={save}>
        <input aria-label="Name of the view" placeholder="Name of this view" maxLength={60} value={name} onInput={(event) => setName(event.target.value)} />
        <button disabled={name.trim() === ""}>Save</button>
      </form>
      {views.length === 0 && <p class="muted">A view is a query with its columns and its order. None is saved yet.</p>}
      <ul class="views">
        {views.map((view) => (
          <li key={view.name}>
            <a href={view.address} aria-current={view.address === address ? "true" : undefined}>{view.name}</a>
            <button type="button" class="quiet" aria-label={`Remove the view ${view.name}`} onClick={() => setViews(removeView(view.name))}>✕</button>
          </li>
        ))}
      </ul>
    </Menu>
  );
}
