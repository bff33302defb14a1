// The table of devices. Only the rows in sight are there; the others are height.

import { memo } from "preact/compat";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";

import { deviceAddress } from "./address.js";
import { COLUMNS, isTime, title, valueOf } from "./fields.js";
import { ago, clock, count, presence, shown } from "./format.js";

const ROW_PX = 40;
/** Rows drawn above and below those in sight. */
const SPARE = 8;
const WIDTHS = { connected: "1.2fr", drift: "1fr", conflicts: "0.8fr", version: "0.8fr", updated: "1.1fr" };

/** These survive going to a device and coming back. `active` is the device that the keyboard is at or that was opened. */
const place = { top: 0, active: undefined };

export function DeviceTable({ listing, conflicts, columns, sort, onSort, now }) {
  const grid = useRef(null);
  const [view, setView] = useState({ top: place.top, height: 600 });
  const [active, setActive] = useState(place.active);
  const ids = listing.order();
  // Before it is painted: one that comes back sees it where it was.
  useLayoutEffect(() => {
    const element = grid.current;
    element.scrollTop = place.top;
    const see = () => {
      // One that is taken out of the page is at its top again, and still receives events.
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
  const first = Math.max(0, Math.floor(view.top / ROW_PX) - SPARE);
  const last = Math.min(ids.length, Math.ceil((view.top + view.height) / ROW_PX) + SPARE);
  useEffect(() => listing.see(first, last), [ids, first, last]);
  // Another order or another query begins at the top.
  const isFirst = useRef(true);
  useLayoutEffect(() => {
    if (!isFirst.current) grid.current.scrollTop = 0;
    isFirst.current = false;
  }, [listing.key]);

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
  const inSight = at >= first && at < last;
  const isChosen = columns !== COLUMNS;
  const template = ["minmax(160px, 2.4fr)", ...columns.map((column) => WIDTHS[column] ?? "minmax(110px, 1.2fr)")].join(" ");
  const rowCount = listing.next ? -1 : ids.length + 1;

  return (
    <div class={`grid ${isChosen ? "chosen-columns" : ""}`} style={{ "--columns": template, "--width": `${176 + 120 * columns.length}px` }} role="grid" ref={grid} tabIndex={0} aria-label="Devices: arrow keys move, Enter opens" aria-busy={listing.loading} aria-activedescendant={inSight && ids[at] ? `row-${ids[at]}` : undefined} onKeyDown={press} aria-rowcount={rowCount} aria-colcount={columns.length + 1}>
      <div class="top-row" role="rowgroup">
        <div class="row head" role="row" aria-rowindex={1}>
          {["device", ...columns].map((column) => <Head key={column} column={column} sort={sort} onSort={onSort} />)}
        </div>
      </div>
      <div class="rows" role="rowgroup" style={{ height: `${ids.length * ROW_PX}px` }}>
        {ids.slice(first, last).map((id, offset) => (
          <Row key={id} id={id} row={listing.rows.get(id)} columns={columns} conflicts={conflicts.get(id) ?? 0} index={first + offset} active={first + offset === at} minute={isAgeing(listing.rows.get(id), columns) ? now : 0} />
        ))}
      </div>
      {ids.length === 0 && !listing.loading && <p class="empty" role="row"><span role="gridcell">No device is like this.</span></p>}
      {listing.next && <p class="empty" role="row"><span role="gridcell">Scroll down for more.</span></p>}
    </div>
  );
}

function Head({ column, sort, onSort }) {
  const by = sort.replace(/^-/, "");
  const isSorted = by === column;
  const isDown = sort.startsWith("-");
  const cell = { class: `c-${column.replace(/\W/g, "-")}`, role: "columnheader" };
  // Only this page knows the conflicts.
  if (column === "conflicts") return <div {...cell}><span class="label">{title(column)}</span></div>;
  const next = isSorted ? (isDown ? column : `-${column}`) : column === "device" ? column : `-${column}`;
  return (
    <div {...cell} aria-sort={isSorted ? (isDown ? "descending" : "ascending") : "none"}>
      <button onClick={() => onSort(next)}>{title(column)}<span aria-hidden="true">{isSorted ? (isDown ? " ↓" : " ↑") : ""}</span></button>
    </div>
  );
}

function open(id) {
  place.active = id;
  location.hash = deviceAddress(id);
}

/** Rows with a time are drawn again as it passes. */
const isAgeing = (row, columns) => row !== undefined && columns.some(isTime);

const NOTHING = { docs: new Map() };

/** Drawn again only when its device changed, as rows are replaced then. */
const Row = memo(function Row({ id, row = { id, ...NOTHING }, columns, conflicts, index, active, minute }) {
  return (
    <div class={`row ${active ? "active" : ""}`} role="row" id={`row-${id}`} aria-rowindex={index + 2} style={{ transform: `translateY(${index * ROW_PX}px)` }} onClick={() => open(id)}>
      <div class="c-id" role="gridcell"><a href={deviceAddress(id)} tabIndex={-1}>{id}</a></div>
      {columns.map((column) => (
        <div key={column} class={`c-${column.replace(/\W/g, "-")}`} role="gridcell">
          {column === "conflicts" ? <Conflicts number={conflicts} /> : <Cell column={column} value={valueOf(row, column)} now={minute} />}
        </div>
      ))}
    </div>
  );
});

function Conflicts({ number }) {
  return number > 0 ? <span class="badge bad">{count(number)}</span> : <span class="muted">0</span>;
}

function Cell({ column, value, now }) {
  if (column === "connected") return <><span class={`dot ${presence(value)}`} aria-hidden="true" />{presence(value)}</>;
  if (column === "drift" && value !== undefined) return value ? <span class="badge warn">drifting</span> : <span class="badge">in sync</span>;
  if (value === undefined) return <span class="muted">—</span>;
  if (isTime(column)) return <span title={clock(value)}>{ago(value, now)}</span>;
  if (typeof value === "number") return <span class="num">{count(value)}</span>;
  return <span title={shown(value)}>{shown(value)}</span>;
}
