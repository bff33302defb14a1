// A new bulk change or rollout: which devices, what changes, in which waves. It is tried out before it can begin.

import { useEffect, useRef, useState } from "preact/hooks";

import { addressOf, deviceAddress } from "./address.js";
import { count, plural } from "./format.js";
import { ask } from "./http.js";
import { described, EMPTY, suggestedId } from "./rollout.js";
import { QueryBar } from "./query_bar.jsx";

const SUCCESS = { converged: "it reports what the rollout desires", accepted: "the change is accepted", query: "a query is true for it" };

export function RolloutForm({ params, vocabulary }) {
  const [form, setForm] = useState({ ...EMPTY, query: params.q ?? "" });
  const [id, setId] = useState(suggestedId);
  const [shown, setShown] = useState(false);
  const [tried, setTried] = useState(null);
  const [problem, setProblem] = useState(null);
  const [busy, setBusy] = useState("");
  /** The same bulk change is sent under the same key: a lost answer changes nothing twice. */
  const key = useRef(null);
  const { spec, problems } = described(form);
  const text = JSON.stringify(spec);
  const isWrong = Object.keys(problems).length > 0;
  const set = (part) => setForm((held) => ({ ...held, ...part }));
  const field = (name) => ({ value: form[name], onInput: (event) => set({ [name]: event.target.value }), "aria-invalid": shown && problems[name] ? "true" : "false", "aria-describedby": problems[name] ? `problem-${name}` : undefined });
  const wrong = (name) => shown && problems[name] && <span class="problem" id={`problem-${name}`}>{problems[name]}</span>;

  const attempt = async (what, act) => {
    setShown(true);
    if (isWrong) return;
    setBusy(what);
    setProblem(null);
    try {
      await act();
    } catch (error) {
      setProblem(error);
    }
    setBusy("");
  };
  const isBulk = form.how === "bulk";
  const path = isBulk ? "/v1/bulk" : `/v1/rollouts/${encodeURIComponent(id)}`;
  const method = isBulk ? "POST" : "PUT";
  const json = { "Content-Type": "application/json" };
  const check = (event) => {
    event.preventDefault();
    attempt("check", async () => setTried({ ...(await ask(method, `${path}?dry_run=true`, spec, json)), text }));
  };
  const begin = () =>
    attempt("begin", async () => {
      if (key.current?.text !== text) key.current = { text, value: crypto.getRandomValues(new Uint32Array(4)).join("-") };
      const rollout = await ask(method, path, spec, { ...json, ...(isBulk ? { "Idempotency-Key": key.current.value } : { "If-None-Match": "*" }) });
      location.hash = addressOf("rollouts", [rollout.id]);
    });
  const isTried = tried?.text === text;

  return (
    <section aria-labelledby="rollout-title">
      <div class="title">
        <a class="back" href="#/rollouts" aria-label="Back to the rollouts">←</a>
        <h1 id="rollout-title">New rollout</h1>
      </div>
      <form class="steps" onSubmit={check} noValidate>
        <fieldset class="card form">
          <legend>1. Devices</legend>
          <div class="actions">
            {[["query", "Of a query"], ["devices", "Of a list"]].map(([value, label]) => <label key={value} class="check"><input type="radio" name="select" checked={form.select === value} onChange={() => set({ select: value })} />{label}</label>)}
          </div>
          {form.select === "query" ? (
            <>
              <QueryBar query={form.query} sent={form.query} problem={null} vocabulary={vocabulary} delay={0} onQuery={(query) => set({ query })} />
              {wrong("query")}
              <label class="check"><input type="checkbox" checked={form.later} disabled={isBulk} onChange={(event) => set({ later: event.target.checked })} />Also devices that begin to match while it runs</label>
            </>
          ) : (
            <label>Device ids<textarea rows={3} spellcheck={false} {...field("devices")} />{wrong("devices")}</label>
          )}
          <label>Shadow<input placeholder="the classic shadow" autocapitalize="none" spellcheck={false} {...field("shadow")} /></label>
        </fieldset>
        <fieldset class="card form">
          <legend>2. Change</legend>
          <div class="panes">
            <label>Merged into desired<textarea rows={5} spellcheck={false} {...field("desired")} />{wrong("desired")}</label>
            <label>Merged into the tags<textarea rows={5} spellcheck={false} {...field("tags")} />{wrong("tags")}</label>
          </div>
          <p class="muted"><code>null</code> removes a member.</p>
          <label>Only where these are so; a line for each<textarea rows={2} spellcheck={false} placeholder={'/desired/firmware = "1.4.0"'} {...field("expect")} />{wrong("expect")}</label>
        </fieldset>
        <fieldset class="card form">
          <legend>3. Waves</legend>
          <div class="actions">
            {[["waves", "In waves"], ["bulk", "All at once"]].map(([value, label]) => <label key={value} class="check"><input type="radio" name="how" checked={form.how === value} onChange={() => set({ how: value })} />{label}</label>)}
          </div>
          <div class="columns">
            {!isBulk && <label>Name<input maxLength={64} value={id} onInput={(event) => setId(event.target.value)} autocapitalize="none" spellcheck={false} /></label>}
            {!isBulk && <label>Devices reached in all by each wave<input spellcheck={false} {...field("waves")} />{wrong("waves")}</label>}
            <label>At most this many devices a second<input inputmode="numeric" placeholder="no limit" {...field("rate")} />{wrong("rate")}</label>
            {!isBulk && <label>A device has succeeded when<select value={form.success} onChange={(event) => set({ success: event.target.value })}>{Object.entries(SUCCESS).map(([value, label]) => <option key={value} value={value}>{label}</option>)}</select></label>}
            {!isBulk && form.success === "query" && <label>This query<input autocapitalize="none" spellcheck={false} placeholder="reported.health:ok" {...field("successQuery")} />{wrong("successQuery")}</label>}
            {!isBulk && form.success !== "accepted" && <label>Seconds until it has failed<input inputmode="numeric" {...field("deadline")} />{wrong("deadline")}</label>}
            {!isBulk && <label>Stop when more fail than<input inputmode="numeric" placeholder="any number" {...field("failures")} />{wrong("failures")}</label>}
            {!isBulk && <label>Stop when a larger part fails, in percent<input inputmode="decimal" placeholder="any part" {...field("percent")} />{wrong("percent")}</label>}
          </div>
          {!isBulk && <label class="check"><input type="checkbox" checked={form.paused} onChange={(event) => set({ paused: event.target.checked })} />Begin paused</label>}
        </fieldset>
        {problem && <p class="problem" role="alert">{problem.message}</p>}
        {shown && isWrong && <p class="problem" role="alert">{plural(Object.keys(problems).length, "field is", "fields are")} not complete.</p>}
        {isTried && <Outcome tried={tried} />}
        <div class="actions">
          <button class={isTried ? "" : "primary"} disabled={busy !== ""}>{busy === "check" ? "Trying…" : "Try out"}</button>
          <button type="button" class={isTried ? "primary" : ""} disabled={busy !== "" || !isTried || tried.devices === 0} onClick={begin}>{busy === "begin" ? "Starting…" : isTried ? `Change ${plural(tried.devices, "device")}` : "Start"}</button>
          <span class="muted">Trying out changes nothing.</span>
        </div>
      </form>
    </section>
  );
}

const COUNTS = { wouldChange: ["would change", "good"], unchanged: ["are so already", ""], conflicts: ["are not as expected", "bad"], forbidden: ["may not be changed by you", "bad"], refused: ["would refuse the change", "bad"], absent: ["have no such shadow", "warn"] };

/** What the dry run found. */
function Outcome({ tried }) {
  const { devices, sample, waves } = tried;
  const card = useRef(null);
  useEffect(() => card.current.scrollIntoView({ block: "nearest" }), [tried]);
  return (
    <div class="card guide" ref={card} role="status" aria-label="Outcome of the try">
      <h2>{devices === 0 ? "No device would be changed" : `${plural(devices, "device")} in ${plural(waves.length, "wave")}: ${waves.map(count).join(", ")}`}</h2>
      <ul class="chips">{Object.entries(COUNTS).filter(([name]) => tried[name] > 0).map(([name, [text, tone]]) => <li key={name} class={`badge ${tone}`}>{count(tried[name])} {text}</li>)}</ul>
      {sample.length > 0 && <p class="muted">The first are {sample.slice(0, 20).map((id, i) => <span key={id}>{i > 0 && ", "}<a href={deviceAddress(id)} target="_blank" rel="noreferrer">{id}</a></span>)}{devices > 20 && " …"}</p>}
    </div>
  );
}
