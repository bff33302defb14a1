// A button that shows more below itself, until one chooses, leaves or presses Escape.

import { useEffect, useRef, useState } from "preact/hooks";

export function Menu({ label, title, children, align = "left" }) {
  const [open, setOpen] = useState(false);
  const [box, button] = [useRef(null), useRef(null)];
  useEffect(() => {
    if (!open) return undefined;
    const outside = (event) => {
      if (!box.current.contains(event.target)) setOpen(false);
    };
    const escape = (event) => {
      if (event.key !== "Escape") return;
      setOpen(false);
      button.current.focus();
    };
    const change = () => setOpen(false);
    document.addEventListener("pointerdown", outside);
    document.addEventListener("focusin", outside);
    document.addEventListener("keydown", escape);
    addEventListener("hashchange", change);
    return () => {
      document.removeEventListener("pointerdown", outside);
      document.removeEventListener("focusin", outside);
      document.removeEventListener("keydown", escape);
      removeEventListener("hashchange", change);
    };
  }, [open]);
  return (
    <div class="menu" ref={box}>
      <button type="button" ref={button} aria-expanded={open} title={title} onClick={() => setOpen(!open)}>{label} <span aria-hidden="true">▾</span></button>
      {open && <div class={`card panel ${align}`}>{typeof children === "function" ? children(() => setOpen(false)) : children}</div>}
    </div>
  );
}
