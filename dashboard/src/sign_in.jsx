// Signing in. What is typed here is sent once and kept nowhere; the answer is a cookie that no script sees.

import { useEffect, useRef, useState } from "preact/hooks";

import { ask } from "./http.js";

export function SignIn({ onDone, hasUnsaved }) {
  const [byToken, setByToken] = useState(false);
  const [problem, setProblem] = useState("");
  const [busy, setBusy] = useState(false);
  const form = useRef(null);
  useEffect(() => form.current.querySelector("input").focus(), [byToken]);

  const submit = async (event) => {
    event.preventDefault();
    const sent = Object.fromEntries(new FormData(event.target));
    setBusy(true);
    setProblem("");
    try {
      await ask("POST", "/session", sent);
      if (!(await onDone())) setProblem("You were let in, but the browser has not kept the cookie that says so.");
    } catch (error) {
      setProblem(error.status === 401 ? `The ${byToken ? "token" : "name or the password"} is wrong.` : error.message);
    }
    setBusy(false);
  };
  return (
    <main class="signin">
      <form class="card" ref={form} onSubmit={submit}>
        <h1><img src="/assets/icon.svg" alt="" width="28" height="28" /> Umbra</h1>
        <p class="muted">This service wants to know who you are.{hasUnsaved && " Your unsaved edit is kept until you are back."}</p>
        {byToken ? (
          <label key="token">Token<input name="token" type="password" required autocomplete="off" /></label>
        ) : (
          <>
            <label>Name<input name="user" required autocomplete="username" autocapitalize="none" spellcheck={false} /></label>
            <label>Password<input name="password" type="password" required autocomplete="current-password" /></label>
          </>
        )}
        <p class="problem" role="alert">{problem}</p>
        <button class="primary" disabled={busy}>{busy ? "Signing in…" : "Sign in"}</button>
        <button type="button" class="quiet" onClick={() => setByToken(!byToken)}>
          {byToken ? "Use name and password" : "Use a token"}
        </button>
      </form>
    </main>
  );
}
