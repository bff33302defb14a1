// The page: who one is, where one is, and the parts that every view has.

import { render } from "preact";
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";

import { DeviceView } from "./device.jsx";
import { FeedView } from "./feed.jsx";
import { Fleet } from "./fleet.js";
import { FleetView } from "./fleet_view.jsx";
import { ask } from "./http.js";
import { Live } from "./live.js";
import { SignIn } from "./sign_in.jsx";

/** How often a page in use tells that it is, so that its session does not end. */
const STAY_MS = 10 * 60 * 1000;

const THEMES = { auto: "light", light: "dark", dark: "auto" };
const STATUS = { live: "Live", connecting: "Connecting…", refused: "Not allowed" };

function App() {
  const [session, setSession] = useState(undefined);
  const [problem, setProblem] = useState(null);
  /** Edits that are not saved, by shadow: kept when a session ends, for whom they are of and nobody else. */
  const unsaved = useRef({ by: null, drafts: new Map() });

  const look = async () => {
    try {
      const found = await ask("GET", "/session");
      if (found.principal !== unsaved.current.by) unsaved.current = { by: found.principal, drafts: new Map() };
      setSession(found);
      setProblem(null);
      return true;
    } catch (error) {
      if (error.status === 401) setSession(null);
      else setProblem(error.message);
      return false;
    }
  };
  const signOut = () => {
    unsaved.current = { by: null, drafts: new Map() };
    setSession(null);
  };
  useEffect(() => {
    look();
    const timer = setInterval(look, STAY_MS);
    return () => clearInterval(timer);
  }, []);

  if (problem && !session) return <p class="center" role="alert">{problem} <button onClick={look}>Try again</button></p>;
  if (session === undefined) return <p class="center" role="status">Loading…</p>;
  const { drafts } = unsaved.current;
  if (session === null) return <SignIn onDone={look} hasUnsaved={drafts.size > 0} />;
  return <Signed key={session.principal} session={session} drafts={drafts} look={look} onOut={signOut} />;
}

/** How far down the page of the fleet was when it was left. */
let fleetTop = 0;
history.scrollRestoration = "manual";

function Signed({ session, drafts, look, onOut }) {
  const [status, setStatus] = useState("connecting");
  const [route, setRoute] = useState(read(location.hash));
  const fleet = useMemo(() => new Fleet(), []);
  const live = useMemo(() => new Live((status) => {
    setStatus(status);
    if (status === "refused") look();
  }), []);

  useEffect(() => {
    const stop = fleet.follow(live);
    return () => {
      stop();
      live.end();
    };
  }, []);
  useEffect(() => {
    const change = () => {
      if (route.view === "fleet") fleetTop = scrollY;
      setRoute(read(location.hash));
      document.querySelector("main")?.focus({ preventScroll: true });
    };
    addEventListener("hashchange", change);
    return () => removeEventListener("hashchange", change);
  }, [route]);
  useLayoutEffect(() => {
    scrollTo(0, route.view === "fleet" ? fleetTop : 0);
    const place = { fleet: "Fleet", feed: "Activity", device: [route.device, route.name].filter(Boolean).join(" · ") }[route.view];
    document.title = `${place} · Umbra`;
  }, [route]);

  const signOut = async () => {
    live.end();
    await ask("DELETE", "/session").catch(() => {});
    onOut();
  };
  const hasCookie = session.method === "password" || session.method === "token";
  return (
    <>
      <header class="top">
        <a class="brand" href="#/"><img src="/assets/icon.svg" alt="" width="22" height="22" /><span>Umbra</span></a>
        <nav aria-label="Views">
          <a href="#/" aria-current={route.view === "fleet" ? "page" : undefined}>Fleet</a>
          <a href="#/feed" aria-current={route.view === "feed" ? "page" : undefined}>Activity</a>
        </nav>
        <span class="spring" />
        <span class={`status ${status}`} role="status"><i aria-hidden="true" /><span>{STATUS[status]}</span></span>
        <span class="who" title={`Roles: ${session.roles.join(", ") || "none"}`}>{session.method === "anonymous" ? "anonymous" : session.principal}</span>
        <Theme />
        {hasCookie && <button class="quiet" onClick={signOut}>Sign out</button>}
      </header>
      <main tabIndex={-1}>
        {route.view === "fleet" && <FleetView fleet={fleet} session={session} />}
        {route.view === "feed" && <FeedView fleet={fleet} />}
        {route.view === "device" && <DeviceView key={`${route.device}~${route.name}`} {...route} live={live} fleet={fleet} drafts={drafts} />}
      </main>
    </>
  );
}

function Theme() {
  const [theme, setTheme] = useState(localStorage.getItem("theme") ?? "auto");
  useEffect(() => {
    localStorage.setItem("theme", theme);
    document.documentElement.dataset.theme = theme;
  }, [theme]);
  return (
    <button class="quiet" aria-label={`Colours: ${theme}. Change`} title={`Colours: ${theme}`} onClick={() => setTheme(THEMES[theme] ?? "auto")}>
      {{ auto: "◐", light: "☀", dark: "☾" }[theme]}
    </button>
  );
}

function read(hash) {
  const [view, device, name] = hash.replace(/^#\/?/, "").split("/").map(decoded);
  if (view === "device" && device) return { view, device, name: name ?? "" };
  return { view: view === "feed" ? "feed" : "fleet" };
}

/** A part of an address, which anybody may have typed. */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return "";
  }
}

render(<App />, document.getElementById("app"));
