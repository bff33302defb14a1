// The table of all devices. Only the rows in sight are there; the others are height.

import { memo } from "preact/compat";
import { useEffect, useRef, useState } from "preact/hooks";

import { ago, count, plural, presence } from "./format.js";
import { FirstDevice } from "./first_device.jsx";
import { useFleet, useNow } from "./frames.js";

const ROW_PX = 40;
/** Rows drawn above and below those in sight. */
const SPARE = 8;

const COLUMNS = [
  { key: "id", title: "Device" },
  { key: "connected", title: "Connection" },
  { key: "drift", title: "State" },
  { key: "conflicts", title: "Conflicts" },
  { key: "version", title: "Version" },
  { key: "timestamp", title: "Last change" },
];

/** These survive going to a device and coming back. `active` is the device that the keyboard is at or that was opened. */
let remembered = { search: "", connected: "any", drift: "any", conflicts: false, sort: "id", descending: false };
const place = { top: 0, active: undefined };

export function FleetView({ fleet, session }) {
  useFleet(fleet);
  const now = useNow(5000);
  const [query, setQuery] = useState(remembered);
  remembered = query;
  const ids = fleet.order(query);
  const totals = fleet.totals();
  const change = (part) => setQuery({ ...query, ...part });
  if (fleet.rows.size === 0 && !fleet.loading && !fleet.error) return <FirstDevice session={session} />;
  const filtered = query.search || query.connected !== "any" || query.drift !== "any" || query.conflicts;

  return (
    <section class="fleet" aria-labelledby="fleet-title">
      <div class="title">
        <h1 id="fleet-title">Fleet</h1>
        <span class="muted" role="status">
          {filtered ? `${count(ids.length)} of ${plural(totals.devices, "device")}` : plural(totals.devices, "device")}
          {fleet.loading && " · loading…"}
        </span>
      </div>
      {fleet.error && <p class="problem" role="alert">The list could not be read: {fleet.error.message}</p>}
      <div class="tiles">
        <Tile label="Devices" value={totals.devices} pressed={!filtered} onClick={() => change({ search: "", connected: "any", drift: "any", conflicts: false })} />
        <Tile label="Connected" value={totals.known > 0 ? totals.connected : "unknown"} tone={totals.known > 0 ? "good" : "none"} pressed={query.connected === "yes"} onClick={() => change({ connected: query.connected === "yes" ? "any" : "yes" })} />
        <Tile label="Drifting" value={totals.drift} tone="warn" pressed={query.drift === "yes"} onClick={() => change({ drift: query.drift === "yes" ? "any" : "yes" })} />
        <Tile label="Conflicts seen" value={totals.conflicts} tone="bad" pressed={query.conflicts} onClick={() => change({ conflicts: !query.conflicts })} />
      </div>
      <div class="filters" role="search">
        <input type="search" aria-label="Search devices" placeholder="Search devices" value={query.search} onInput={(event) => change({ search: event.target.value })} />
        <Choice label="Connection" value={query.connected} options={{ any: "Any connection", yes: "Connected", no: "Not connected" }} onChange={(connected) => change({ connected })} />
        <Choice label="Drift" value={query.drift} options={{ any: "Any state", yes: "Drifting", no: "In sync" }} onChange={(drift) => change({ drift })} />
        <label class="check"><input type="checkbox" checked={query.conflicts} onChange={(event) => change({ conflicts: event.target.checked })} />With conflicts</label>
      </div>
      <Table fleet={fleet} ids={ids} query={query} change={change} now={now} />
    </section>
  );
}

function Tile({ label, value, tone = "", pressed, onClick }) {
  return (
    <button class={`tile ${tone}`} aria-pressed={pressed} onClick={onClick}>
      <b>{typeof value === "number" ? count(value) : value}</b>
      <span>{label}</span>
    </button>
  );
}

function Choice({ label, value, options, onChange }) {
  return (
    <select aria-label={label} value={value} onChange={(event) => onChange(event.target.value)}>
      {Object.entries(options).map(([key, text]) => <option key={key} value={key}>{text}</option>)}
    </select>
  );
}

function Table({ fleet, ids, query, change, now }) {
  const grid = useRef(null);
  const [view, setView] = useState({ top: place.top, height: 600 });
  const [active, setActive] = useState(place.active);
  useEffect(() => {
    const element = grid.current;
    element.scrollTop = place.top;
    const see = () => {
      // One that is taken out of the page is at its top again, and is still heard of.
      if (!element.isConnected) return;
      place.top = element.scrollTop;
      setView({ top: element.scrollTop, height: element.clientHeight - ROW_PX });
    };
    const observer = new ResizeObserver(see);
    observer.observe(element);
    element.addEventListener("scroll", see, { passive: true });
    return () => {
      observer.disconnect();
      element.removeEventListener("scroll", see);
    };
  }, []);

  const at = Math.max(0, ids.indexOf(active));
  const go = (to) => {
    const next = Math.max(0, Math.min(ids.length - 1, to));
    place.active = ids[next];
    setActive(place.active);
    const element = grid.current;
    if (next * ROW_PX < element.scrollTop) element.scrollTop = next * ROW_PX;
    const bottom = (next + 2) * ROW_PX - element.clientHeight;
    if (bottom > element.scrollTop) element.scrollTop = bottom;
  };
  const page = Math.max(1, Math.floor(view.height / ROW_PX) - 1);
  const keys = {
    ArrowDown: () => go(at + 1),
    ArrowUp: () => go(at - 1),
    PageDown: () => go(at + page),
    PageUp: () => go(at - page),
    Home: () => go(0),
    End: () => go(ids.length - 1),
    Enter: () => ids[at] && open(ids[at]),
  };
  const press = (event) => {
    // The buttons of the head are in it, too, and have keys of their own.
    const act = event.target === grid.current && keys[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  };
  const first = Math.max(0, Math.floor(view.top / ROW_PX) - SPARE);
  const last = Math.min(ids.length, Math.ceil((view.top + view.height) / ROW_PX) + SPARE);
  const inSight = at >= first && at < last;

  return (
    <div class="grid" role="grid" ref={grid} tabIndex={0} aria-label="Devices: arrow keys move, Enter opens" aria-activedescendant={inSight && ids[at] ? `row-${ids[at]}` : undefined} onKeyDown={press} aria-rowcount={ids.length + 1} aria-colcount={COLUMNS.length}>
      <div class="top-row" role="rowgroup">
        <div class="row head" role="row" aria-rowindex={1}>
          {COLUMNS.map(({ key, title }) => {
            const sorted = query.sort === key;
            const order = query.descending ? "descending" : "ascending";
            return (
              <div key={key} class={`c-${key}`} role="columnheader" aria-sort={sorted ? order : "none"}>
                <button onClick={() => change({ sort: key, descending: sorted ? !query.descending : key !== "id" })}>
                  {title}<span aria-hidden="true">{sorted ? (query.descending ? " ↓" : " ↑") : ""}</span>
                </button>
              </div>
            );
          })}
        </div>
      </div>
      <div class="rows" role="rowgroup" style={{ height: `${ids.length * ROW_PX}px` }}>
        {ids.slice(first, last).map((id, offset) => (
            <Row key={id} row={fleet.rows.get(id)} index={first + offset} active={first + offset === at} when={age(fleet.rows.get(id), now)} />
          ))}
      </div>
      {ids.length === 0 && !fleet.loading && <p class="empty" role="row"><span role="gridcell">No device is like this.</span></p>}
    </div>
  );
}

function open(id) {
  place.active = id;
  location.hash = `#/device/${encodeURIComponent(id)}`;
}

const age = (row, now) => (row?.timestamp ? ago(row.timestamp, now) : "—");

/** Drawn again only when its device changed, as rows are replaced then. */
const Row = memo(function Row({ row, index, active, when }) {
  if (!row) return null;
  const connection = presence(row.connected);
  return (
    <div class={`row ${active ? "active" : ""}`} role="row" id={`row-${row.id}`} aria-rowindex={index + 2} style={{ transform: `translateY(${index * ROW_PX}px)` }} onClick={() => open(row.id)}>
      <div class="c-id" role="gridcell"><a href={`#/device/${encodeURIComponent(row.id)}`} tabIndex={-1}>{row.id}</a></div>
      <div class="c-connected" role="gridcell"><span class={`dot ${connection}`} aria-hidden="true" />{connection}</div>
      <div class="c-drift" role="gridcell">{row.drift ? <span class="badge warn">drifting</span> : <span class="badge">in sync</span>}</div>
      <div class="c-conflicts" role="gridcell">{row.conflicts > 0 ? <span class="badge bad">{count(row.conflicts)}</span> : <span class="muted">0</span>}</div>
      <div class="c-version num" role="gridcell">{row.version ? count(row.version) : "—"}</div>
      <div class="c-timestamp" role="gridcell">{when}</div>
    </div>
  );
});
