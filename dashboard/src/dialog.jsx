// A dialog over the page; Escape leaves it.

import { useEffect, useRef } from "preact/hooks";

export function Dialog({ title, onCancel, children }) {
  const dialog = useRef(null);
  useEffect(() => {
    dialog.current.showModal();
    // Whom a dialog takes the keyboard from gets it back when it closes.
    return () => dialog.current?.close();
  }, []);
  return (
    <dialog class="small-dialog" ref={dialog} aria-labelledby="dialog-title" onCancel={(event) => { event.preventDefault(); onCancel(); }}>
      <h2 id="dialog-title">{title}</h2>
      {children}
    </dialog>
  );
}
