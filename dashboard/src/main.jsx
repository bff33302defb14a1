// The page: who one is, where one is, and the parts that every view has.

import { render } from "preact";
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";

import { AboutView } from "./about_view.jsx";
import { AccessView } from "./access_view.jsx";
import { readAddress } from "./address.js";
import { ClientsView } from "./clients_view.jsx";
import { ClusterView } from "./cluster_view.jsx";
import { DeviceView } from "./device.jsx";
import { FeedView } from "./feed.jsx";
import { Fleet } from "./fleet.js";
import { fleetAddress, FleetView } from "./fleet_view.jsx";
import { ask } from "./http.js";
import { Listing } from "./listing.js";
import { Live } from "./live.js";
import { TestClient } from "./mqtt_client.js";
import { MqttView } from "./mqtt_view.jsx";
import { Vocabulary } from "./query_bar.jsx";
import { RetainedView } from "./retained_view.jsx";
import { RolloutsView } from "./rollouts_view.jsx";
import { SignIn } from "./sign_in.jsx";

/** Interval at which a page in use renews its session. */
const STAY_MS = 10 * 60 * 1000;

const THEMES = { auto: "light", light: "dark", dark: "auto" };
/** The views of the navigation; that of the cluster only where there is one. */
const TITLES = { fleet: "Fleet", feed: "Activity", rollouts: "Rollouts", clients: "Clients", retained: "Retained", mqtt: "MQTT", access: "Access", cluster: "Cluster", about: "About" };
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
  const [route, setRoute] = useState(() => routeOf(location.hash));
  const fleet = useMemo(() => new Fleet(), []);
  const live = useMemo(() => new Live((status) => {
    setStatus(status);
    if (status === "refused") look();
  }), []);
  const listing = useMemo(() => new Listing(live), []);
  const tester = useMemo(() => new TestClient(), []);
  /** The reason why one could not sign out. */
  const [problem, setProblem] = useState("");
  /** On a phone, the navigation is behind a button. */
  const [menu, setMenu] = useState(false);
  const vocabulary = useMemo(() => new Vocabulary(), []);

  useEffect(() => {
    const stop = fleet.follow(live);
    return () => {
      stop();
      listing.rest();
      tester.disconnect();
      live.end();
    };
  }, []);
  // At once: who leaves quickly is where he was, too.
  useLayoutEffect(() => {
    const change = () => {
      if (route.view === "fleet") fleetTop = scrollY;
      setRoute(routeOf(location.hash));
      setMenu(false);
      document.querySelector("main")?.focus({ preventScroll: true });
    };
    addEventListener("hashchange", change);
    return () => removeEventListener("hashchange", change);
  }, [route]);
  useLayoutEffect(() => {
    scrollTo(0, route.view === "fleet" ? fleetTop : 0);
    document.title = `${route.view === "device" ? route.parts.join(" · ") : TITLES[route.view]} · Umbra`;
  }, [route]);

  // As on many pages, a slash goes to what one searches with.
  useEffect(() => {
    const press = (event) => {
      if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName)) return;
      const search = document.querySelector("main [role=search] input");
      if (search) event.preventDefault();
      search?.focus();
    };
    addEventListener("keydown", press);
    return () => removeEventListener("keydown", press);
  }, []);

  const signOut = async () => {
    try {
      await ask("DELETE", "/session");
    } catch (error) {
      // Without a session there is nothing to end. Otherwise the cookie still is that of the session.
      if (error.status !== 401) return setProblem(`You are still signed in: ${error.message}`);
    }
    live.end();
    onOut();
  };
  const [device, name = ""] = route.parts;
  // From the list itself it leads to the whole list.
  const fleetLink = route.view === "fleet" ? "#/" : fleetAddress();
  const hasCookie = session.method === "password" || session.method === "token";
  return (
    <>
      <header class="top">
        <a class="brand" href={fleetLink}><img src="/assets/icon.svg" alt="" width="22" height="22" /><span>Umbra</span></a>
        <button class="quiet to-views" aria-expanded={menu} aria-controls="views" onClick={() => setMenu(!menu)}>{TITLES[route.view] ?? "Device"} <span aria-hidden="true">▾</span></button>
        <nav id="views" class={menu ? "open" : ""} aria-label="Views">
          {Object.entries(TITLES).filter(([view]) => view !== "cluster" || session.cluster).map(([view, title]) => (
            <a key={view} href={view === "fleet" ? fleetLink : `#/${view}`} aria-current={route.view === view ? "page" : undefined}>{title}</a>
          ))}
        </nav>
        <span class="spring" />
        <span class={`status ${status}`} role="status"><i aria-hidden="true" /><span>{STATUS[status]}</span></span>
        <span class="who" title={`Roles: ${session.roles.join(", ") || "none"}`}>{session.method === "anonymous" ? "anonymous" : session.principal}</span>
        <Theme />
        {hasCookie && <button class="quiet" onClick={signOut}>Sign out</button>}
      </header>
      <main tabIndex={-1}>
        {problem && <p class="problem" role="alert">{problem}</p>}
        {route.view === "fleet" && <FleetView fleet={fleet} listing={listing} vocabulary={vocabulary} params={route.params} session={session} />}
        {route.view === "feed" && <FeedView fleet={fleet} live={live} />}
        {route.view === "rollouts" && <RolloutsView key={route.parts[0]} parts={route.parts} params={route.params} vocabulary={vocabulary} />}
        {route.view === "clients" && <ClientsView params={route.params} />}
        {route.view === "retained" && <RetainedView params={route.params} live={live} />}
        {route.view === "mqtt" && <MqttView client={tester} session={session} />}
        {route.view === "access" && <AccessView params={route.params} session={session} />}
        {route.view === "cluster" && <ClusterView />}
        {route.view === "about" && <AboutView />}
        {route.view === "device" && <DeviceView key={`${device}~${name}`} device={device} name={name} params={route.params} session={session} live={live} drafts={drafts} />}
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

/** Returns the view of an address; one that there is not is that of the fleet. */
function routeOf(hash) {
  const route = readAddress(hash);
  const isKnown = route.view === "device" ? route.parts.length > 0 : Object.hasOwn(TITLES, route.view);
  return isKnown ? route : { view: "fleet", parts: [], params: {} };
}

render(<App />, document.getElementById("app"));
